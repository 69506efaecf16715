"""Output head: final norm, logits over a vocabulary split over tp, cross-entropy."""

from __future__ import annotations

from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.embedding import FP32_BYTES, vocabulary_share
from meshwright.costmodel.program.operators import Axis, Group, MemoryKernel, MemoryWork

STATISTICS = 3
"""FP32 numbers a token that vocabulary-parallel ranks sum: maximum, sum of exponentials, the label's logit."""

EAGER_PASSES = (5, 3)
"""FP32 passes over the logits that eager cross-entropy reads and writes: max, subtract, exponential, sum, divide."""


class HeadBlock:
    """From `source`, the residual stream, to the loss; `prefix` names the pass of a multi-token-prediction module.

    The logits and their gradient are BF16. `fused`: one kernel reads the logits; otherwise they are first copied to
    FP32, as eager frameworks do, and that copy is what is kept. The builder's setting must be BF16: heads are not
    quantized in FP8 training.
    """

    def __init__(
        self, builder: ProgramBuilder, model: ModelSpec, *, fused: bool, prefix: str = "", source: str = "hidden"
    ) -> None:
        self.builder = builder
        self.fused = fused
        self.prefix = prefix
        self.source = source
        self.hidden = builder.setting.hidden
        self.tokens = builder.setting.gathered_tokens
        self.columns = vocabulary_share(model, builder.setting.strategy.tp)
        self.norm_parameters = self.hidden * (2 if model.layers[-1].norm_bias else 1)
        self.biases = self.columns if model.head_bias else 0

    @property
    def _group(self) -> Group:
        return self.builder.setting.group(self.builder.setting.strategy.tp)

    @property
    def _gathers(self) -> bool:
        strategy = self.builder.setting.strategy
        return strategy.tp > 1 and strategy.sequence_parallel

    @property
    def _normed(self) -> str:
        return f"{self.prefix}final_norm_out"

    @property
    def _input(self) -> str:
        return f"{self._normed}_ag" if self._gathers else self._normed

    @property
    def _scored(self) -> str:
        return f"{self.prefix}logits" if self.fused else f"{self.prefix}logits_fp32"

    def add_forward(self) -> None:
        """Append the forward operators and count the norm; the matrix is counted by whoever owns it."""
        b, p = self.builder, self.prefix
        b.module = "head"
        b.add_weights(dense=self.norm_parameters)
        b.tensor(self._normed, b.setting.tokens * self.hidden)
        b.elementwise(f"{p}final_norm", MemoryKernel.NORM, (self.source,), (self._normed,))
        if self._gathers:
            b.tensor(self._input, self.tokens * self.hidden)
            work = b.all_gather(self._group, self._input)
            b.collective(f"all_gather.{self._normed}", Axis.TENSOR, work, (self._normed,), (self._input,))
        b.tensor(f"{p}logits", self.tokens * self.columns)
        b.linear(f"{p}head", self.tokens, self.hidden, self.columns, self._input, f"{p}logits")
        self._cross_entropy()

    def add_matrix(self) -> None:
        """Count this rank's columns of the head's matrix and its bias."""
        self.builder.add_weights(dense=self.columns * self.hidden + self.biases)

    def _cross_entropy(self) -> None:
        b, p = self.builder, self.prefix
        statistics = b.auxiliary(f"{p}loss_statistics", STATISTICS * FP32_BYTES * self.tokens)
        reads, writes = 1, 0
        if not self.fused:
            b.auxiliary(self._scored, FP32_BYTES * self.tokens * self.columns)
            b.elementwise(f"{p}cast.logits", MemoryKernel.CAST, (f"{p}logits",), (self._scored,))
            reads, writes = EAGER_PASSES
        scored = b.bytes_of(self._scored)
        work = MemoryWork(
            kernel=MemoryKernel.CROSS_ENTROPY,
            read_bytes=reads * scored,
            write_bytes=writes * scored + b.bytes_of(statistics),
            num_kernels=reads,
        )
        local = statistics if b.setting.strategy.tp == 1 else b.auxiliary(f"{statistics}_partial", work.write_bytes)
        b.forward(f"{p}cross_entropy", work, (self._scored,), (local,))
        if local != statistics:
            summed = b.all_reduce(self._group, statistics)
            b.collective(f"all_reduce.{statistics}", Axis.TENSOR, summed, (local,), (statistics,))

    def add_backward(self) -> None:
        """Append the backward operators, from the loss to the gradient of `source`."""
        b, p = self.builder, self.prefix
        b.module = "head"
        reads = (self._scored, f"{p}loss_statistics")
        b.elementwise_backward(f"{p}cross_entropy.backward", MemoryKernel.CROSS_ENTROPY, reads, (f"grad:{p}logits",))
        target = self._partial_gradient()
        gradients = (f"grad:{p}logits",)
        b.linear_backward(f"{p}head", self.tokens, self.hidden, self.columns, self._input, gradients, target)
        self._sum_gradient(target)

    def add_norm_backward(self, *, accumulates: bool) -> None:
        """Append the norm's backward; it adds to a gradient of `source` that is already there if it `accumulates`."""
        b, gradient = self.builder, f"grad:{self.source}"
        b.module = "head"
        reads = (self.source, f"grad:{self._normed}") + ((gradient,) if accumulates else ())
        b.elementwise_backward(f"{self.prefix}final_norm.backward", MemoryKernel.NORM, reads, (gradient,))

    def _partial_gradient(self) -> str:
        if self._gathers or self.builder.setting.strategy.tp == 1:
            return f"grad:{self._input}"
        self.builder.auxiliary(f"{self._normed}_partial", self.builder.bytes_of(self._normed))
        return f"grad:{self._normed}_partial"

    def _sum_gradient(self, partial: str) -> None:
        b = self.builder
        if b.setting.strategy.tp == 1:
            return
        work = (b.reduce_scatter if self._gathers else b.all_reduce)(self._group, partial)
        name = f"{work.collective}.{self.prefix}grad_final_norm_out"
        b.collective_backward(name, Axis.TENSOR, work, (partial,), (f"grad:{self._normed}",))
