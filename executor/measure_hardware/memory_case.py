"""The memory-bound operators of layer programs: shapes, and the bytes that the programs count for them.

The byte counts repeat what `costmodel/program` says of each operator; a test holds both together.
"""

from __future__ import annotations

from enum import StrEnum

from meshwright.costmodel.program.head import EAGER_PASSES, STATISTICS
from meshwright.costmodel.program.operators import CustomKernel, CustomWork, MemoryKernel, MemoryWork
from meshwright.costmodel.program.router import ROUTER_KERNELS
from meshwright.costmodel.value import Value

BF16_BYTES = 2
FP32_BYTES = 4
INDEX_BYTES = 4


class MemoryOperator(StrEnum):
    """An operator by what it computes, finer than `MemoryKernel`."""

    COPY = "copy"
    NORM = "norm"
    NORM_BACKWARD = "norm_backward"
    RESIDUAL = "residual"
    ROPE = "rope"
    SWIGLU = "swiglu"
    SWIGLU_BACKWARD = "swiglu_backward"
    PERMUTE = "permute"
    PERMUTE_BACKWARD = "permute_backward"
    UNPERMUTE = "unpermute"
    UNPERMUTE_BACKWARD = "unpermute_backward"
    ROUTER = "router"
    ROUTER_BACKWARD = "router_backward"
    CAST_FP8 = "cast_fp8"
    CAST_FP32 = "cast_fp32"
    CROSS_ENTROPY = "cross_entropy"
    CROSS_ENTROPY_BACKWARD = "cross_entropy_backward"
    OPTIMIZER = "optimizer"


KERNELS = {
    MemoryOperator.COPY: MemoryKernel.COPY,
    MemoryOperator.NORM: MemoryKernel.NORM,
    MemoryOperator.NORM_BACKWARD: MemoryKernel.NORM,
    MemoryOperator.RESIDUAL: MemoryKernel.RESIDUAL,
    MemoryOperator.ROPE: MemoryKernel.ROPE,
    MemoryOperator.SWIGLU: MemoryKernel.ACTIVATION,
    MemoryOperator.SWIGLU_BACKWARD: MemoryKernel.ACTIVATION,
    MemoryOperator.PERMUTE: MemoryKernel.PERMUTE,
    MemoryOperator.PERMUTE_BACKWARD: MemoryKernel.UNPERMUTE,
    MemoryOperator.UNPERMUTE: MemoryKernel.UNPERMUTE,
    MemoryOperator.UNPERMUTE_BACKWARD: MemoryKernel.PERMUTE,
    MemoryOperator.ROUTER: MemoryKernel.ROUTER,
    MemoryOperator.ROUTER_BACKWARD: MemoryKernel.ROUTER,
    MemoryOperator.CAST_FP8: MemoryKernel.CAST,
    MemoryOperator.CAST_FP32: MemoryKernel.CAST,
    MemoryOperator.CROSS_ENTROPY: MemoryKernel.CROSS_ENTROPY,
    MemoryOperator.CROSS_ENTROPY_BACKWARD: MemoryKernel.CROSS_ENTROPY,
    MemoryOperator.OPTIMIZER: MemoryKernel.OPTIMIZER,
}


CUSTOM = {
    MemoryOperator.SWIGLU: CustomKernel.SWIGLU,
    MemoryOperator.SWIGLU_BACKWARD: CustomKernel.SWIGLU_BACKWARD,
    MemoryOperator.PERMUTE: CustomKernel.PERMUTE,
    MemoryOperator.PERMUTE_BACKWARD: CustomKernel.UNPERMUTE,
    MemoryOperator.UNPERMUTE: CustomKernel.UNPERMUTE,
    MemoryOperator.UNPERMUTE_BACKWARD: CustomKernel.PERMUTE,
    MemoryOperator.ROUTER: CustomKernel.ROUTE,
    MemoryOperator.ROUTER_BACKWARD: CustomKernel.ROUTE_BACKWARD,
}
"""Operators that a kernel of Meshwright's own can run. None of the survey weighs rows behind the experts."""


class MemoryCase(Value, frozen=True, kw_only=True):
    """An operator over `rows` rows of `width` values.

    Rows are tokens, except of permutations: expert rows, `top_k` of them a token. `width` is the hidden size, the
    experts' width (SwiGLU), query and key heads together (RoPE), the number of experts (router) or the vocabulary.
    The optimizer updates rows x width parameters.
    """

    operator: MemoryOperator
    rows: int
    width: int
    top_k: int = 1

    def work(self, *, eager: bool) -> MemoryWork:
        """The work as layer programs describe it; `eager` matters to the cross-entropy alone."""
        read, write, num_kernels = self._traffic(eager=eager)
        return MemoryWork(
            kernel=KERNELS[self.operator],
            read_bytes=float(read),
            write_bytes=float(write),
            num_kernels=num_kernels,
            backward=self.operator.value.endswith("_backward"),
            custom=self._custom(float(read), float(write)),
        )

    def _custom(self, read: float, write: float) -> CustomWork | None:
        """What a custom kernel must move: of rows that are copied, the tokens' once; in a backward, no logits."""
        kernel = CUSTOM.get(self.operator)
        if kernel is None:
            return None
        if kernel is CustomKernel.ROUTE_BACKWARD:
            read -= write  # the logits, as large as their gradient
        copies = self.top_k if kernel is CustomKernel.PERMUTE else 1
        return CustomWork(kernel=kernel, num_bytes=read / copies + write)

    def _traffic(self, *, eager: bool) -> tuple[float, float, int]:
        """Bytes read and written, kernels."""
        size = BF16_BYTES * self.rows * self.width
        tokens = self.rows // self.top_k
        operator = self.operator
        simple = {
            MemoryOperator.COPY: (1, 1),
            MemoryOperator.NORM: (1, 1),
            MemoryOperator.NORM_BACKWARD: (3, 1),
            MemoryOperator.RESIDUAL: (2, 1),
            MemoryOperator.ROPE: (1, 1),
            MemoryOperator.SWIGLU: (2, 1),
            MemoryOperator.SWIGLU_BACKWARD: (3, 2),
            MemoryOperator.PERMUTE: (1, 1),
            MemoryOperator.PERMUTE_BACKWARD: (1, 1 / self.top_k),
            MemoryOperator.UNPERMUTE: (1, 1 / self.top_k),
            MemoryOperator.UNPERMUTE_BACKWARD: (1, 1),
            MemoryOperator.CAST_FP8: (1, 1),
            MemoryOperator.CAST_FP32: (1, 2),
            MemoryOperator.OPTIMIZER: (8, 7),
        }
        if operator in simple:
            reads, writes = simple[operator]
            return reads * size, writes * size, 1
        if operator in (MemoryOperator.ROUTER, MemoryOperator.ROUTER_BACKWARD):
            return self._router_traffic()
        statistics = STATISTICS * FP32_BYTES * tokens
        scored = (FP32_BYTES if eager else BF16_BYTES) * self.rows * self.width
        if operator is MemoryOperator.CROSS_ENTROPY_BACKWARD:
            return scored + statistics, size, 1
        reads, writes = EAGER_PASSES if eager else (1, 0)
        return reads * scored, writes * scored + statistics, int(reads)

    def _router_traffic(self) -> tuple[float, float, int]:
        logits = FP32_BYTES * self.rows * self.width
        routing = (FP32_BYTES + INDEX_BYTES) * self.rows * self.top_k + FP32_BYTES * self.width
        if self.operator is MemoryOperator.ROUTER:
            return logits, routing, ROUTER_KERNELS
        return logits + 2 * routing, logits, ROUTER_KERNELS
