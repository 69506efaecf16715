"""Which operands the CUDA kernels take."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.tensors import first_reason, why_not_rows

MOST_BLOCKS = 2**31 - 1


def why_not(name: str, rows: Tensor, rowmap: RowMap, weights_TK: Tensor | None) -> str | None:
    """Why the CUDA kernels can't take these rows; None: they can."""
    too_many = rowmap.places_TK.numel() + rowmap.counts_E.numel() > MOST_BLOCKS
    wrong_weights = weights_TK is not None and weights_TK.dtype is not torch.float32
    return first_reason(
        why_not_rows(name, rows),
        f"{rowmap.places_TK.numel()} slots, the kernels take {MOST_BLOCKS}" if too_many else None,
        "gate weights are not float32" if wrong_weights else None,
    )
