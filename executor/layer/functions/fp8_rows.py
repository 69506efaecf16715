"""Rows in 8 bits: e4m3 numbers, the row's FP32 scale behind them, and room to the next 16 bytes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
SCALE_BYTES = 4
ROOM_BYTES = 16
"""Behind the numbers of a row, so that rows of vectors stay rows of vectors."""


def packed(rows_TW: Tensor) -> Tensor:
    """(T, W + 16) bytes. The scale of a row is its largest magnitude over that of the format; 1 for a row of zeros."""
    wide = rows_TW.float()
    scale_T1 = wide.abs().amax(1, keepdim=True) / LARGEST
    scale_T1 = torch.where(scale_T1 > 0, scale_T1, 1.0)
    numbers = (wide / scale_T1).to(FORMAT).view(torch.uint8)
    scales = F.pad(scale_T1, (0, ROOM_BYTES // SCALE_BYTES - 1))
    return torch.cat((numbers, scales.view(torch.uint8)), 1)


def unpacked(packed_TB: Tensor) -> Tensor:
    """The numbers in FP32, (T, W)."""
    width = packed_TB.shape[1] - ROOM_BYTES
    numbers, scales = packed_TB.narrow(1, 0, width), packed_TB.narrow(1, width, SCALE_BYTES)
    return numbers.contiguous().view(FORMAT).float() * scales.contiguous().view(torch.float32)


def summed_rows(packed_TB: Tensor, num_parts: int, dtype: torch.dtype) -> Tensor:
    """The sum in FP32 of so many equal parts of the rows, (T / num_parts, W)."""
    rows_TW = unpacked(packed_TB)
    return (rows_TW.unflatten(0, (num_parts, -1)).sum(0) if num_parts > 1 else rows_TW).to(dtype)
