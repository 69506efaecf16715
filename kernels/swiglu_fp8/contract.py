"""What the FP8 variant of SwiGLU takes and gives.

The product FC2 reads rows, with a scale for 128 columns of a row; FC2's weight gradient reads columns (turned, so that
what it sums over lies side by side), with a scale for 128 rows of a column. Both are e4m3; a scale is the largest
magnitude of its 128 numbers over 448. Rows come in tiles of 128, which no two experts share.
Source: 1x128 and 128x1 blocks, DeepSeek-V3 (arXiv 2412.19437, section 3.3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.swiglu.contract import check_swiglu

OPERATION = "swiglu_fp8"
BLOCK = 128
LARGEST = 448.0
LEAST_AMAX = 1e-30
FORMAT = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedSwiglu:
    """rows_PF, columns_FP (e4m3); row_scales (P, F / 128) and column_scales (P / 128, F), float32."""

    rows_PF: Tensor
    row_scales: Tensor
    columns_FP: Tensor
    column_scales: Tensor


def check_swiglu_fp8(gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None, rowmap: RowMap | None) -> None:
    """Raise where tensors do not fit."""
    check_swiglu(OPERATION, gate_PF, up_PF, weights_P, rowmap)
    if gate_PF.shape[0] % BLOCK or gate_PF.shape[1] % BLOCK:
        raise KernelInputError(f"{OPERATION}: gate has shape {tuple(gate_PF.shape)}, expected multiples of {BLOCK}")
    if rowmap is not None and rowmap.tile % BLOCK:
        raise KernelInputError(f"{OPERATION}: groups are multiples of {rowmap.tile} rows, expected of {BLOCK}")


def moved_bytes(num_rows: int, num_padding: int, width: int) -> int:
    """Bytes that must move: gate and up in bfloat16 in; e4m3 twice out, with scales, padding (not read) included.

    >>> moved_bytes(128, 0, 128), moved_bytes(64, 64, 128)
    (99328, 66560)
    """
    written = num_rows + num_padding
    return 4 * num_rows * width + 2 * written * width + 2 * 4 * written * width // BLOCK
