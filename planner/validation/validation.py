"""Predicts every row of a table of measured runs and compares: what `meshwright validate` reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

import msgspec

from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.formulas.flops import flops_per_token
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import schedule_of, stage_memory
from meshwright.costmodel.value import Value
from meshwright.planner.validation.fit_record import fit_record
from meshwright.planner.validation.free_parameters import Values
from meshwright.planner.validation.interval import residuals_without
from meshwright.planner.validation.predictor import described, predict_row, predicted_step_s
from meshwright.planner.validation.printed_settings import runtime_name_of
from meshwright.planner.validation.rows import MEASURED, RowText, TrainingRow, measured_of, memory_of, parse_row

GIB = 2**30

__all__ = [
    "HeldOut",
    "MemoryResult",
    "RowResult",
    "Status",
    "predict_row",
    "predicted_step_s",
    "validate",
    "validate_row",
]

HeldOut = Callable[[TrainingRow], Values]
"""Values of the free parameters that no run of the row's model took part in."""


class Status(StrEnum):
    """What became of a row. INVALID: a cell is absurd. UNSUPPORTED: the run cannot be described."""

    PREDICTED = "predicted"
    UNSUPPORTED = "unsupported"
    INVALID = "invalid"


class MemoryResult(Value, frozen=True, kw_only=True):
    """Peak memory of the fullest GPU. `fits`: within what a process can allocate there."""

    predicted_gib: float
    measured_gib: float | None
    error: float | None
    fits: bool


class RowResult(Value, frozen=True, kw_only=True):
    """One row, predicted and measured. `error` is predicted over measured tokens/s, less 1.

    `description` is the framework description that it starts from. `held_out_...`: predicted with values fitted without
    any run of its model. `interval_...`: throughput that it lies between with 90 % probability, by the errors on other
    models; `inside`: whether the measurement does.
    """

    id: str
    kind: str
    framework: str
    model: str
    predicted_tokens_per_s_per_gpu: float | None
    measured_tokens_per_s_per_gpu: float | None
    error: float | None
    status: Status
    reason: str
    description: str = ""
    num_gpus: int = 0
    precision: str = ""
    held_out_tokens_per_s_per_gpu: float | None = None
    held_out_error: float | None = None
    interval_tokens_per_s_per_gpu: tuple[float, float] | None = None
    inside: bool | None = None
    memory: MemoryResult | None = None


def packaged_held_out(row: TrainingRow) -> Values:
    """From the packaged folds."""
    return fit_record().held_out_values(row)


def validate_row(text: RowText, held_out: HeldOut = packaged_held_out) -> RowResult:
    """Parse, describe and predict a row; what goes wrong becomes its status and reason."""
    try:
        row = parse_row(text)
    except MeshwrightError as problem:
        return _result(text, Status.INVALID, reason=str(problem))
    try:
        if (utilization := _utilization(row)) > 1.0:
            reason = f"{row.id}: {MEASURED}: {row.tokens_per_s_per_gpu:g} would be {utilization:.0%} of the GPU's peak"
            return _result(text, Status.INVALID, reason=reason)
        predicted = predict_row(row)
        result = _result(text, Status.PREDICTED, predicted=predicted)
        apart = predict_row(row, held_out(row))
        memory = memory_result(row, memory_of(text))
    except MeshwrightError as problem:
        return _result(text, Status.UNSUPPORTED, reason=str(problem))
    return msgspec.structs.replace(
        with_interval(result, row, apart), memory=memory, num_gpus=row.num_gpus, precision=row.precision
    )


def _utilization(row: TrainingRow) -> float:
    """Model FLOPs of what was measured over the peak of the run's number format."""
    run = described(row)
    peak = run.cluster.gpu.peak_flops_per_s(run.workload.precision)
    return row.tokens_per_s_per_gpu * flops_per_token(run.model, run.workload.seq_len) / peak


def with_interval(result: RowResult, row: TrainingRow, apart: float) -> RowResult:
    """The result with the prediction of the fit that never saw its model, and the interval around it."""
    measured = row.tokens_per_s_per_gpu
    residuals = residuals_without(row.kind, row.model)
    bounds = (apart / max(1.0, residuals.high), apart / min(1.0, residuals.low)) if residuals else None
    return msgspec.structs.replace(
        result,
        description=runtime_name_of(row),
        held_out_tokens_per_s_per_gpu=apart,
        held_out_error=apart / measured - 1.0,
        interval_tokens_per_s_per_gpu=bounds,
        inside=bounds[0] <= measured <= bounds[1] if bounds else None,
    )


def memory_result(row: TrainingRow, measured_gib: float | None) -> MemoryResult:
    """Predicted peak memory beside the printed one."""
    run = described(row)
    peak_gib = max(stage.total for stage in stage_memory(schedule_of(run), stage_costs(run))) / GIB
    return MemoryResult(
        predicted_gib=peak_gib,
        measured_gib=measured_gib,
        error=peak_gib / measured_gib - 1.0 if measured_gib else None,
        fits=peak_gib * GIB <= run.cluster.gpu.usable_memory_bytes,
    )


def _result(text: RowText, status: Status, *, predicted: float | None = None, reason: str = "") -> RowResult:
    measured = measured_of(text)
    return RowResult(
        id=text.id,
        kind=text.cells.get("kind", ""),
        framework=text.cells.get("framework", ""),
        model=text.cells.get("model", ""),
        predicted_tokens_per_s_per_gpu=predicted,
        measured_tokens_per_s_per_gpu=measured,
        error=predicted / measured - 1.0 if predicted is not None and measured is not None else None,
        status=status,
        reason=reason,
    )


def validate(
    table: Iterable[RowText],
    on_row: Callable[[RowResult], None] = lambda _: None,
    held_out: HeldOut = packaged_held_out,
) -> tuple[RowResult, ...]:
    """All rows, in order; `on_row` is called after each."""
    results = []
    for text in table:
        results.append(validate_row(text, held_out))
        on_row(results[-1])
    return tuple(results)
