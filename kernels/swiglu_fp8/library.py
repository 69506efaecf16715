"""`torch.ops.meshwright.swiglu_fp8`, for torch.compile. FP8 numbers have no gradient: `swiglu` has the backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meshwright.kernels.library_name import NAMESPACE
from meshwright.kernels.swiglu.library import OPTIONAL_MAP, optional_map
from meshwright.kernels.swiglu_fp8.contract import BLOCK, FORMAT
from meshwright.kernels.swiglu_fp8.operator import swiglu_fp8


@torch.library.custom_op(
    f"{NAMESPACE}::swiglu_fp8",
    mutates_args=(),
    schema=f"(Tensor gate, Tensor up, Tensor? weights, {OPTIONAL_MAP}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def swiglu_fp8_op(
    gate: Tensor,
    up: Tensor,
    weights: Tensor | None,
    *rowmap: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, their scales, columns, their scales."""
    out = swiglu_fp8(gate, up, weights, optional_map(*rowmap))
    return out.rows_PF, out.row_scales, out.columns_FP, out.column_scales


@swiglu_fp8_op.register_fake
def _fake(gate: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN401
    rows, width = gate.shape
    return (
        gate.new_empty((rows, width), dtype=FORMAT),
        gate.new_empty((rows, width // BLOCK), dtype=torch.float32),
        gate.new_empty((width, rows), dtype=FORMAT),
        gate.new_empty((rows // BLOCK, width), dtype=torch.float32),
    )
