"""The three matrix products of a linear layer."""

from __future__ import annotations

from meshwright.costmodel.program.operators import GemmWork, GroupedGemmWork, Pass, Precision
from meshwright.costmodel.value import Value


class LinearLayer(Value, frozen=True, kw_only=True):
    """y = x W on one rank: `tokens` rows, W is width_in by width_out.

    `num_experts` > 0: so many matrices side by side, `tokens` rows among them all.
    """

    name: str
    tokens: float
    width_in: int
    width_out: int
    num_experts: int = 0

    def forward_work(self, precision: Precision) -> GemmWork | GroupedGemmWork:
        """Y = x W."""
        if self.num_experts:
            return self._grouped(self.width_out, self.width_in, Pass.FORWARD, precision)
        return GemmWork(m=round(self.tokens), n=self.width_out, k=self.width_in, precision=precision)

    def dgrad_work(self, precision: Precision) -> GemmWork | GroupedGemmWork:
        """Dx = dy W^T."""
        if self.num_experts:
            return self._grouped(self.width_in, self.width_out, Pass.DGRAD, precision)
        return GemmWork(
            m=round(self.tokens), n=self.width_in, k=self.width_out, direction=Pass.DGRAD, precision=precision
        )

    def wgrad_work(self, precision: Precision, *, fp32_gradients: bool) -> GemmWork | GroupedGemmWork:
        """DW = x^T dy, added to an FP32 buffer where gradients are FP32."""
        if self.num_experts:
            return self._grouped(self.width_out, self.width_in, Pass.WGRAD, precision, fp32_gradients)
        return GemmWork(
            m=self.width_in,
            n=self.width_out,
            k=round(self.tokens),
            direction=Pass.WGRAD,
            precision=precision,
            accumulates_fp32=fp32_gradients,
        )

    def _grouped(
        self, n: int, k: int, direction: Pass, precision: Precision, accumulates_fp32: bool = False
    ) -> GroupedGemmWork:
        return GroupedGemmWork(
            num_groups=self.num_experts,
            rows=self.tokens,
            n=n,
            k=k,
            direction=direction,
            precision=precision,
            accumulates_fp32=accumulates_fp32,
        )
