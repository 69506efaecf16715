"""Products of groups of rows, each with the matrix of its own expert. W is (E, width out, width in).

`offsets_E` (int32) are the ends of the groups, on the device: nothing here waits for the host on CUDA. The loop over
experts is the truth, and what runs on CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL_WIDTH = 8
"""Rows of a grouped product's operands lie multiples of so many numbers apart: 16 bytes."""


def grouped_forward(rows_RI: Tensor, weight_EOI: Tensor, offsets_E: Tensor) -> Tensor:
    """Each row times its expert's matrix, (R, O)."""
    if has_kernel(rows_RI, *weight_EOI.shape[1:]):
        return F.grouped_mm(rows_RI, weight_EOI.transpose(-2, -1), offs=offsets_E)
    out = rows_RI.new_empty(rows_RI.shape[0], weight_EOI.shape[1])
    for expert, rows in _groups(offsets_E):
        out[rows] = rows_RI[rows] @ weight_EOI[expert].t()
    return out


def grouped_dgrad(grad_RO: Tensor, weight_EOI: Tensor, offsets_E: Tensor) -> Tensor:
    """Gradient of the rows, (R, I)."""
    if has_kernel(grad_RO, *weight_EOI.shape[1:]):
        return F.grouped_mm(grad_RO, weight_EOI, offs=offsets_E)
    out = grad_RO.new_empty(grad_RO.shape[0], weight_EOI.shape[2])
    for expert, rows in _groups(offsets_E):
        out[rows] = grad_RO[rows] @ weight_EOI[expert]
    return out


def grouped_wgrad(grad_RO: Tensor, rows_RI: Tensor, offsets_E: Tensor) -> Tensor:
    """Gradient of the matrices, (E, O, I); zero for an expert without rows."""
    if has_kernel(grad_RO, grad_RO.shape[1], rows_RI.shape[1]):
        return F.grouped_mm(grad_RO.t(), rows_RI, offs=offsets_E)
    out = grad_RO.new_empty(offsets_E.numel(), grad_RO.shape[1], rows_RI.shape[1])
    for expert, rows in _groups(offsets_E):
        out[expert] = grad_RO[rows].t() @ rows_RI[rows]
    return out


def has_kernel(x: Tensor, *widths: int) -> bool:
    """Whether torch's grouped product of these widths runs as one kernel on the tensor's device, in its format."""
    return x.is_cuda and x.dtype is torch.bfloat16 and not any(width % KERNEL_WIDTH for width in widths)


def _groups(offsets_E: Tensor) -> Iterator[tuple[int, slice]]:
    start = 0
    for expert, end in enumerate(offsets_E.tolist()):
        yield expert, slice(start, end)
        start = end


def group_bias(bias_EO: Tensor, offsets_E: Tensor, num_rows: int) -> Tensor:
    """The bias of every row's expert, (R, O); behind the last group any."""
    return bias_EO.index_select(0, group_of_rows(offsets_E, num_rows).clamp(max=len(bias_EO) - 1))


def group_of_rows(offsets_E: Tensor, num_rows: int) -> Tensor:
    """The expert of every row, (R,); E behind the last group."""
    rows = torch.arange(num_rows, device=offsets_E.device, dtype=offsets_E.dtype)
    return torch.searchsorted(offsets_E, rows, right=True)
