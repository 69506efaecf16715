"""What runs attention forward and backward, by kernel: all take and give the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from meshwright.executor.layer.context import AttentionKernel
from meshwright.executor.layer.functions import attention_formula, attention_kernels
from meshwright.executor.layer.functions.attention_kernels import KernelState
from meshwright.executor.layer.functions.masks import Mask

Forward = Callable[[Tensor, Tensor, Tensor, float, Mask], tuple[Tensor, Tensor, KernelState]]
"""From queries, keys, values, (B, N, S, D), scale and mask to the output, the log of the softmax's sums, the state."""

Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, KernelState, float, Mask], list[Tensor]]
"""From the output's gradient, the forward's operands and results to gradients of queries, keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPasses:
    """Both passes of a kernel."""

    forward: Forward
    backward: Backward


def _formula(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Mask) -> tuple[Tensor, Tensor, KernelState]:
    return *attention_formula.attention(query, key, value, scale, mask), KernelState()


def _formula_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    _state: KernelState,
    scale: float,
    mask: Mask,
) -> list[Tensor]:
    return attention_formula.attention_backward(grad, query, key, value, out, sums, scale, mask)


PASSES: dict[AttentionKernel, AttentionPasses] = {
    AttentionKernel.CUDNN: AttentionPasses(forward=attention_kernels.cudnn, backward=attention_kernels.cudnn_backward),
    AttentionKernel.FA2: AttentionPasses(forward=attention_kernels.fa2, backward=attention_kernels.fa2_backward),
    AttentionKernel.FORMULA: AttentionPasses(forward=_formula, backward=_formula_backward),
}
