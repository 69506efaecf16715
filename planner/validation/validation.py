"""Predicts every row of a table of published runs and compares: what `meshwright validate` reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.simulate import step_time_s
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import schedule_of, step_durations, step_overlap
from meshwright.costmodel.value import Value
from meshwright.planner.validation.rows import RowText, TrainingRow, measured_of, parse_row
from meshwright.planner.validation.run_description import describe
from meshwright.planner.validation.statistics import ErrorSummary, summarize


class Status(StrEnum):
    """What became of a row. INVALID: a cell is absurd. UNSUPPORTED: the run cannot be described."""

    PREDICTED = "predicted"
    UNSUPPORTED = "unsupported"
    INVALID = "invalid"


class RowResult(Value, frozen=True, kw_only=True):
    """One row, predicted and measured. `error` is predicted over measured tokens/s, less 1."""

    id: str
    kind: str
    framework: str
    model: str
    predicted_tokens_per_s_per_gpu: float | None
    measured_tokens_per_s_per_gpu: float | None
    error: float | None
    status: Status
    reason: str


class Summary(Value, frozen=True, kw_only=True):
    """Errors over all rows, and over the rows of each kind and framework."""

    overall: ErrorSummary
    by_kind: dict[str, ErrorSummary]
    by_framework: dict[str, ErrorSummary]
    by_framework_and_kind: dict[str, ErrorSummary]


def predicted_step_s(configuration: TrainingConfiguration) -> float:
    """Seconds of a step: the prediction without its breakdown, which costs a second simulation."""
    schedule = schedule_of(configuration)
    durations = step_durations(configuration, schedule, stage_costs(configuration))
    return step_time_s(schedule, durations, step_overlap(configuration))


def predict_row(row: TrainingRow) -> float:
    """Predicted tokens/s of one GPU."""
    return row.global_batch * row.seq_len / row.num_gpus / predicted_step_s(describe(row))


def validate_row(text: RowText) -> RowResult:
    """Parse, describe and predict a row; what goes wrong becomes its status and reason."""
    try:
        row = parse_row(text)
    except MeshwrightError as problem:
        return _result(text, Status.INVALID, reason=str(problem))
    try:
        predicted = predict_row(row)
    except MeshwrightError as problem:
        return _result(text, Status.UNSUPPORTED, reason=str(problem))
    return _result(text, Status.PREDICTED, predicted=predicted)


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


def validate(table: Iterable[RowText], on_row: Callable[[RowResult], None] = lambda _: None) -> tuple[RowResult, ...]:
    """All rows, in order; `on_row` is called after each."""
    results = []
    for text in table:
        results.append(validate_row(text))
        on_row(results[-1])
    return tuple(results)


def summary_of(results: tuple[RowResult, ...]) -> Summary:
    """Errors by kind and framework, largest groups first."""

    def by(key: Callable[[RowResult], str]) -> dict[str, ErrorSummary]:
        groups: dict[str, list[float | None]] = {}
        for result in results:
            groups.setdefault(key(result), []).append(result.error)
        return {name: summarize(errors) for name, errors in sorted(groups.items(), key=lambda item: -len(item[1]))}

    return Summary(
        overall=summarize(result.error for result in results),
        by_kind=by(lambda result: result.kind),
        by_framework=by(lambda result: result.framework),
        by_framework_and_kind=by(lambda result: f"{result.framework} {result.kind}"),
    )
