"""Gradients added where they lie, in a format of their own: BF16 products and gradients into FP32 sums on GPUs.

PyTorch's own kernels for two formats at once move some 1 TB/s on an H200, compiled ones what a copy moves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.functions.compiled import compiled_for_any_length, compiles_for_cuda

WIDTH = 64
"""Elements of a row of what is compiled: of a length that is a multiple, vectors can be loaded."""


def add_product(total_OI: Tensor, left_OT: Tensor, right_TI: Tensor, *, restarts: bool) -> None:
    """`total + left right`, or only `left right` where the sum restarts, written to `total`.

    BF16 on a GPU: one product that accumulates in FP32 and ends in an FP32 `total`, rounded nowhere between.
    """
    if not has_wide_product(total_OI, left_OT):
        add_gradient(total_OI, left_OT @ right_TI, restarts=restarts)
    elif restarts:
        torch.mm(left_OT, right_TI, out_dtype=torch.float32, out=total_OI)
    else:
        torch.addmm(total_OI, left_OT, right_TI, out_dtype=torch.float32, out=total_OI)


def has_wide_product(total: Tensor, factor: Tensor) -> bool:
    """Whether one kernel multiplies and adds to a sum of a wider format."""
    return total.is_cuda and total.dtype is torch.float32 and factor.dtype is torch.bfloat16


def add_gradient(total: Tensor, gradient: Tensor, *, restarts: bool) -> None:
    """Add a gradient of any floating format, or overwrite the sum where it restarts."""
    if _is_compiled(total, gradient):
        function = compiled_for_any_length(overwrite if restarts else add)
        function(total.view(-1, WIDTH), gradient.reshape(-1, WIDTH))
    elif restarts:
        total.copy_(gradient)
    else:
        total.add_(gradient)


def _is_compiled(total: Tensor, gradient: Tensor) -> bool:
    """Small ones are not worth a compiled function's longer call."""
    mixed = total.is_cuda and total.dtype is not gradient.dtype
    return mixed and total.dim() > 1 and total.numel() % WIDTH == 0 and compiles_for_cuda()


def overwrite(total_NW: Tensor, gradient_NW: Tensor) -> None:
    """The gradient in the sum's format."""
    total_NW.copy_(gradient_NW)


def add(total_NW: Tensor, gradient_NW: Tensor) -> None:
    """The gradient on top of the sum."""
    total_NW.add_(gradient_NW)


def summed(parts_CN: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over the first dim in a wider format, (N,). N is a multiple of `WIDTH`."""
    if parts_CN.is_cuda and compiles_for_cuda():
        return compiled_for_any_length(sum_of_parts)(parts_CN.view(len(parts_CN), -1, WIDTH), dtype).view(-1)
    return sum_of_parts(parts_CN, dtype)


def sum_of_parts(parts_CN: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over the first dim."""
    return parts_CN.sum(0, dtype=dtype)
