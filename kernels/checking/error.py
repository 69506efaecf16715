"""The one measure of error, with one limit for each number format."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

LIMITS: Final = MappingProxyType(
    {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float8_e4m3fn: 5e-2}
)
"""Rounding once leaves at most 2**-8 of a number in bfloat16, 2**-4 in e4m3 (some 0.03 of a whole row or column)."""


def worst_row_error(found: Tensor, truth: Tensor) -> float:
    """The worst row's error: |found - truth| over |truth|, or over the norm of a typical row where that is larger.

    Rows are the last dim; of a vector each number is a row. One wrong row shows, however many there are. Infinite where
    something is not finite.

    >>> worst_row_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    0.0
    """
    if found.shape != truth.shape:
        raise ValueError(f"shape is {tuple(found.shape)}, the truth's {tuple(truth.shape)}")
    if truth.numel() == 0:
        return 0.0
    found, truth = _rows(found), _rows(truth)
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    norms = truth.norm(dim=-1)
    typical = norms.square().mean().sqrt()
    wrong = (found - truth).norm(dim=-1)
    worst = (wrong / torch.maximum(norms, typical).clamp(min=torch.finfo(torch.float64).tiny)).max()
    return float(worst)


def _rows(tensor: Tensor) -> Tensor:
    wide = tensor.detach().to(torch.float64)
    return wide.unsqueeze(-1) if wide.dim() == 1 else wide.flatten(0, -2)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same bits, NaN included."""
    if first.shape != second.shape or first.dtype is not second.dtype:
        return False
    return bool(torch.equal(_bits(first), _bits(second)))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)
