"""Sums up what `meshwright validate` found: errors of the fit and of the folds, intervals, memory, by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshwright.costmodel.value import Value
from meshwright.planner.validation.statistics import ErrorSummary, quantile, summarize
from meshwright.planner.validation.validation import RowResult


class Groups(Value, frozen=True, kw_only=True):
    """Errors over all rows, and over the rows of each kind and framework; `description`: the framework's file."""

    overall: ErrorSummary
    by_kind: dict[str, ErrorSummary]
    by_framework: dict[str, ErrorSummary]
    by_framework_and_kind: dict[str, ErrorSummary]
    by_description_and_kind: dict[str, ErrorSummary]

    @property
    def by_table_row(self) -> dict[str, ErrorSummary]:
        """What tables show: descriptions, frameworks that have several of them as a whole, kinds, everything."""
        several = {
            f"{name}, every description": part
            for name, part in self.by_framework_and_kind.items()
            if name in self.by_description_and_kind and part.rows > self.by_description_and_kind[name].rows
        }
        return {**self.by_description_and_kind, **several, **self.by_kind, "all": self.overall}


class Coverage(Value, frozen=True, kw_only=True):
    """Share of `rows` measurements that lie in their 90 % interval, which is made from other models' errors."""

    rows: int
    share: float | None


class MemorySummary(Value, frozen=True, kw_only=True):
    """Errors of peak memory where it was printed, and the runs that ran though they are predicted not to fit."""

    rows: int
    median_ape: float | None
    bias: float | None
    predicted_out_of_memory: tuple[str, ...]


class Summary(Value, frozen=True, kw_only=True):
    """`fit`: the shipped descriptions, fitted to these rows. `held_out`: fits without the row's model."""

    fit: Groups
    held_out: Groups
    coverage: dict[str, Coverage]
    memory: MemorySummary


def summary_of(results: Sequence[RowResult]) -> Summary:
    """Everything by group, largest groups first."""
    return Summary(
        fit=groups_of(results, lambda result: result.error),
        held_out=groups_of(results, lambda result: result.held_out_error),
        coverage=coverage_of(results),
        memory=memory_summary(results),
    )


def grouped(results: Sequence[RowResult], key: Callable[[RowResult], str]) -> dict[str, list[RowResult]]:
    """The results of each value of a key, largest groups first."""
    groups: dict[str, list[RowResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def groups_of(results: Sequence[RowResult], error: Callable[[RowResult], float | None]) -> Groups:
    """One measure of error, summed up by group."""

    def by(key: Callable[[RowResult], str]) -> dict[str, ErrorSummary]:
        return {name: summarize(map(error, rows)) for name, rows in grouped(results, key).items()}

    return Groups(
        overall=summarize(map(error, results)),
        by_kind=by(lambda result: result.kind),
        by_framework=by(lambda result: result.framework),
        by_framework_and_kind=by(lambda result: f"{result.framework} {result.kind}"),
        by_description_and_kind=by(lambda result: f"{result.description or result.framework} {result.kind}"),
    )


def coverage_of(results: Sequence[RowResult]) -> dict[str, Coverage]:
    """Coverage over all rows, each kind, and each framework with its kind."""
    groups = {
        "all": list(results),
        **grouped(results, lambda result: result.kind),
        **grouped(results, lambda result: f"{result.description or result.framework} {result.kind}"),
    }
    return {name: _coverage([row.inside for row in rows if row.inside is not None]) for name, rows in groups.items()}


def _coverage(inside: list[bool]) -> Coverage:
    return Coverage(rows=len(inside), share=sum(inside) / len(inside) if inside else None)


def memory_summary(results: Sequence[RowResult]) -> MemorySummary:
    """Errors of memory, and rows that should not have run."""
    errors = [row.memory.error for row in results if row.memory and row.memory.error is not None]
    return MemorySummary(
        rows=len(errors),
        median_ape=quantile([abs(error) for error in errors], 0.5) if errors else None,
        bias=quantile(errors, 0.5) if errors else None,
        predicted_out_of_memory=tuple(row.id for row in results if row.memory and not row.memory.fits),
    )
