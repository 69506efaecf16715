"""SwiGLU to FP8 by the CUDA kernel, or by the reference where that can't run. One launch, nothing waits."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.dispatch import dispatcher, launch
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.swiglu.operator import live_rows
from meshwright.kernels.swiglu_fp8.contract import BLOCK, FORMAT, OPERATION, QuantizedSwiglu, check_swiglu_fp8
from meshwright.kernels.swiglu_fp8.launch import why_not
from meshwright.kernels.swiglu_fp8.reference import swiglu_fp8_reference


def swiglu_fp8(
    gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None = None, rowmap: RowMap | None = None
) -> QuantizedSwiglu:
    """Silu(gate) * up * weights in e4m3, by rows and by columns, read once."""
    check_swiglu_fp8(gate_PF, up_PF, weights_P, rowmap)
    weights = None if weights_P is None else weights_P.contiguous()
    if not dispatcher().runs_cuda(OPERATION, gate_PF, why_not(gate_PF, up_PF, weights)):
        return swiglu_fp8_reference(gate_PF, up_PF, weights, rowmap)
    rows, width = gate_PF.shape
    out = QuantizedSwiglu(
        rows_PF=gate_PF.new_empty((rows, width), dtype=FORMAT),
        row_scales=gate_PF.new_empty((rows, width // BLOCK), dtype=torch.float32),
        columns_FP=gate_PF.new_empty((width, rows), dtype=FORMAT),
        column_scales=gate_PF.new_empty((rows // BLOCK, width), dtype=torch.float32),
    )
    launch(
        "swiglu_fp8",
        gate_PF.device,
        gate_PF,
        up_PF,
        weights,
        *live_rows(rowmap),
        out.rows_PF,
        out.row_scales,
        out.columns_FP,
        out.column_scales,
    )
    return out
