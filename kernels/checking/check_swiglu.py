"""Checks SwiGLU and its FP8 variant against float64."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.checking.cases import Case, random_map, random_rows, random_weights
from meshwright.kernels.checking.check_permute import end_of
from meshwright.kernels.checking.error import LIMITS
from meshwright.kernels.checking.finding import Finding, compared, exact, twice
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.swiglu.operator import swiglu, swiglu_backward
from meshwright.kernels.swiglu.reference import product, swiglu_backward_reference
from meshwright.kernels.swiglu_fp8.contract import BLOCK, QuantizedSwiglu
from meshwright.kernels.swiglu_fp8.operator import swiglu_fp8
from meshwright.kernels.swiglu_fp8.reference import dequantized


def check_swiglu(case: Case, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> list[Finding]:
    """All findings of one case in one number format: with a map and weights, and without either."""
    rowmap = random_map(case, device, generator)
    joint = _joint(rowmap, case.intermediate, dtype, generator)
    grad = random_rows(rowmap.capacity, case.intermediate, dtype, device, generator)
    weights = random_weights((rowmap.capacity,), device, generator)
    end = end_of(rowmap)
    return [
        *_check_one(f"{case.name}, map", joint, grad, weights, rowmap, end),
        *_check_one(case.name, joint[:end], grad[:end], None, None, end),
    ]


def _joint(rowmap: RowMap, width: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Gate and up side by side; NaN where nothing may be read."""
    joint = 2 * random_rows(rowmap.capacity, 2 * width, dtype, rowmap.slots_P.device, generator)
    return joint.masked_fill((rowmap.slots_P < 0).unsqueeze(1), float("nan"))


def _check_one(
    name: str, joint: Tensor, grad: Tensor, weights: Tensor | None, rowmap: RowMap | None, end: int
) -> list[Finding]:
    if rowmap is None:
        joint = torch.where(joint.isnan(), 0.5, joint)
    gate, up = joint.chunk(2, -1)
    wide = None if weights is None else weights.double()

    def backward() -> tuple[Tensor, ...]:
        gradients = swiglu_backward(gate, up, grad, weights, rowmap)
        return (gradients.joint_P2F, *([] if gradients.weights_P is None else [gradients.weights_P]))

    (out,), alike = twice("swiglu", name, lambda: (swiglu(gate, up, weights, rowmap),))
    (of_joint, *of_weights), alike_backward = twice("swiglu backward", name, backward)
    truth = swiglu_backward_reference(gate.double(), up.double(), grad.double(), wide, rowmap)
    findings = [
        alike,
        alike_backward,
        compared("swiglu", name, out[:end], product(gate.double(), up.double(), wide, rowmap)[:end]),
        compared("swiglu backward: joint", name, of_joint[:end], truth.joint_P2F[:end]),
    ]
    if truth.weights_P is not None:
        findings.append(compared("swiglu backward: weights", name, of_weights[0][:end], truth.weights_P[:end]))
    return findings


def check_swiglu_fp8(case: Case, device: torch.device, generator: torch.Generator) -> list[Finding]:
    """All findings of one case, its width and tile rounded up to 128."""
    rowmap = random_map(case, device, generator, tile=BLOCK)
    width = -(-case.intermediate // BLOCK) * BLOCK
    gate, up = _joint(rowmap, width, torch.bfloat16, generator).chunk(2, -1)
    weights, end = random_weights((rowmap.capacity,), device, generator), end_of(rowmap)
    found, alike = twice("swiglu fp8", case.name, lambda: _as_tuple(swiglu_fp8(gate, up, weights, rowmap)))
    rows, row_scales, columns, column_scales = found
    truth = product(gate.double(), up.double(), weights.double(), rowmap)[:end]
    findings = [alike]
    if end == 0:
        return findings
    by_columns = dequantized(columns[:, :end], column_scales[: end // BLOCK].t())
    amax = truth.unflatten(1, (-1, BLOCK)).abs().amax(-1)
    column_amax = truth.unflatten(0, (-1, BLOCK)).abs().amax(1)
    quantized = {
        "rows": (dequantized(rows[:end], row_scales[:end]), truth),
        "columns": (by_columns, truth.t()),
    }
    for name, (own, true) in quantized.items():
        as_fp8 = compared(f"swiglu fp8: {name}", case.name, own, true)
        findings.append(Finding(what=as_fp8.what, case=case.name, error=as_fp8.error, limit=LIMITS[rows.dtype]))
    findings += [
        compared("swiglu fp8: row scales", case.name, 448 * row_scales[:end], amax),
        compared("swiglu fp8: column scales", case.name, 448 * column_scales[: end // BLOCK], column_amax),
        exact("swiglu fp8: scales", case.name, holds=bool((row_scales[:end] > 0).all())),
    ]
    return findings


def _as_tuple(out: QuantizedSwiglu) -> tuple[Tensor, ...]:
    return out.rows_PF, out.row_scales, out.columns_FP, out.column_scales
