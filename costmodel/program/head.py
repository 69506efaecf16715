"""Output head: final norm, logits over a vocabulary split over tp, cross-entropy."""

from __future__ import annotations

from meshwright.costmodel.formulas.parameters import norm_parameters
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.embedding import FP32_BYTES, vocabulary_share
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import GRADIENT, Axis, MemoryKernel, MemoryWork
from meshwright.costmodel.program.region import TensorRegion

STATISTICS = 3
"""FP32 numbers a token that vocabulary-parallel ranks sum: maximum, sum of exponentials, the label's logit."""

EAGER_PASSES = (2, 1)
"""FP32 passes over the logits that eager cross-entropy reads and writes: PyTorch's log-softmax reads them twice.

Source: measured, H100 SXM: 512 tokens of 32,768 logits take 74 us, three passes at 2.7 TB/s.
"""


class HeadBlock:
    """From `source`, the residual stream, to the loss; `prefix` names the pass of a multi-token-prediction module.

    The logits and their gradient are BF16. `fused`: one kernel reads the logits; otherwise they are first copied to
    FP32, as eager frameworks do, and that copy is what is kept. The builder's setting must be BF16: heads are not
    quantized in FP8 training.
    """

    def __init__(
        self, builder: ProgramBuilder, model: ModelSpec, *, fused: bool, prefix: str = "", source: str = "hidden"
    ) -> None:
        hidden, tp = builder.setting.hidden, builder.setting.strategy.tp
        self.builder = builder
        self.model = model
        self.fused = fused
        self.prefix = prefix
        self.source = source
        self.region = TensorRegion(builder, tp)
        self.linear = LinearLayer(
            name=f"{prefix}head",
            tokens=builder.setting.gathered_tokens,
            width_in=hidden,
            width_out=vocabulary_share(model, tp),
        )

    @property
    def _normed(self) -> str:
        return f"{self.prefix}final_norm_out"

    @property
    def _logits(self) -> str:
        return f"{self.prefix}logits"

    @property
    def _scored(self) -> str:
        return self._logits if self.fused else f"{self._logits}_fp32"

    @property
    def biases(self) -> int:
        """Elements of this rank's part of the head's bias."""
        return self.linear.width_out if self.model.head_bias else 0

    def add_forward(self) -> None:
        """Append the forward operators and count the norm; the matrix is counted by whoever owns it."""
        b, hidden = self.builder, self.linear.width_in
        b.module = "head"
        b.add_weights(dense=norm_parameters(hidden, 1, self.model.layers[-1].norm_bias))
        b.tensor(self._normed, b.setting.tokens * hidden)
        b.elementwise(f"{self.prefix}final_norm", MemoryKernel.NORM, (self.source,), (self._normed,))
        b.tensor(self._logits, self.linear.tokens * self.linear.width_out)
        b.linear(self.linear, self.region.enter(self._normed), self._logits)
        self._cross_entropy()

    def add_matrix(self) -> None:
        """Count this rank's columns of the head's matrix and its bias."""
        self.builder.add_weights(dense=self.linear.width_out * self.linear.width_in + self.biases)

    def _cross_entropy(self) -> None:
        b, tp = self.builder, self.region.size
        statistics = b.auxiliary(f"{self.prefix}loss_statistics", STATISTICS * FP32_BYTES * self.linear.tokens)
        if not self.fused:
            b.auxiliary(self._scored, FP32_BYTES * self.linear.tokens * self.linear.width_out)
            b.elementwise(f"{self.prefix}cast.logits", MemoryKernel.CAST, (self._logits,), (self._scored,))
        local = statistics if tp == 1 else b.auxiliary(f"{statistics}_partial", b.bytes_of(statistics))
        b.forward(f"{self.prefix}cross_entropy", self._cross_entropy_work(), (self._scored,), (local,))
        if tp > 1:
            work = b.all_reduce(self.region.group, statistics)
            b.collective(f"all_reduce.{statistics}", Axis.TENSOR, work, (local,), (statistics,))

    def _cross_entropy_work(self) -> MemoryWork:
        reads, writes = (1, 0) if self.fused else EAGER_PASSES
        scored_bytes = self.builder.bytes_of(self._scored)
        return MemoryWork(
            kernel=MemoryKernel.CROSS_ENTROPY,
            read_bytes=reads * scored_bytes,
            write_bytes=writes * scored_bytes + STATISTICS * FP32_BYTES * self.linear.tokens,
            num_kernels=reads,
        )

    def add_backward(self, *, accumulates: bool) -> None:
        """Append the backward operators, from the loss to the gradient of `source`.

        `accumulates`: a gradient of `source` is already there, and the norm's backward adds to it.
        """
        b, p, region = self.builder, self.prefix, self.region
        b.module = "head"
        scored, gradient = (self._scored, f"{p}loss_statistics"), GRADIENT + self._logits
        b.elementwise_backward(f"{p}cross_entropy.backward", MemoryKernel.CROSS_ENTROPY, scored, (gradient,))
        entered = region.entered(self._normed)
        target = region.inner_gradient(self._normed, entered)
        b.linear_backward(self.linear, entered, (gradient,), target)
        region.leave_backward(target, self._normed, f"{p}grad_final_norm_out")
        gradient = GRADIENT + self.source
        reads = (self.source, GRADIENT + self._normed) + ((gradient,) if accumulates else ())
        b.elementwise_backward(f"{p}final_norm.backward", MemoryKernel.NORM, reads, (gradient,))
