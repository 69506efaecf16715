"""Which operands the CUDA kernel takes."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.swiglu import launch as swiglu_launch
from meshwright.kernels.swiglu_fp8.contract import BLOCK

MOST_ROW_TILES = 65_535


def why_not(gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None) -> str | None:
    """Why the CUDA kernel can't take these rows; None: it can."""
    if gate_PF.dtype is not torch.bfloat16:
        return f"gate is {gate_PF.dtype}, the kernel takes bfloat16"
    if gate_PF.shape[0] > MOST_ROW_TILES * BLOCK:
        return f"{gate_PF.shape[0]} rows, the kernel takes {MOST_ROW_TILES * BLOCK}"
    return swiglu_launch.why_not(gate_PF, up_PF, weights_P)
