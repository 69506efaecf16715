"""Fits framework descriptions to a user's own measurements, with cross-validation, and leaves the package as it is."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.validation.cross_validation import Progress, by_framework, fit_framework
from meshwright.planner.validation.fit_record import FrameworkFit
from meshwright.planner.validation.predictor import predict_row
from meshwright.planner.validation.rows import RowText, TrainingRow
from meshwright.planner.validation.statistics import ErrorSummary, summarize
from meshwright.planner.validation.usable import usable_rows


class OwnFit(Value, frozen=True, kw_only=True):
    """One framework fitted to a table: errors as shipped, of the fit, and of fits without the row's fold."""

    fit: FrameworkFit
    shipped: ErrorSummary
    fitted: ErrorSummary
    held_out: ErrorSummary


class OwnFits(Value, frozen=True, kw_only=True):
    """What could be fitted, and why the rest could not."""

    fits: tuple[OwnFit, ...]
    left_out: tuple[str, ...]


def fit_own(table: Sequence[RowText], progress: Progress = lambda _: None) -> OwnFits:
    """Fit every framework that has rows enough; an `InputError` where none has."""
    fits, left_out = [], []
    for framework, rows in by_framework(usable_rows(table)).items():
        try:
            fits.append(_own(fit_framework(framework, rows, progress, folds_of_rows=True), rows))
        except InputError as problem:
            left_out.append(str(problem))
    if not fits:
        why = "; ".join(left_out) or "no row of a framework with free parameters can be predicted"
        raise InputError("--fit", "", f"nothing can be fitted: {why}")
    return OwnFits(fits=tuple(fits), left_out=tuple(left_out))


def _own(fit: FrameworkFit, rows: Sequence[TrainingRow]) -> OwnFit:
    def errors(values: Sequence[dict[str, float] | None]) -> ErrorSummary:
        pairs = zip(rows, values, strict=True)
        return summarize(predict_row(row, one) / row.tokens_per_s_per_gpu - 1.0 for row, one in pairs)

    return OwnFit(
        fit=fit,
        shipped=errors([None] * len(rows)),
        fitted=errors([fit.values] * len(rows)),
        held_out=errors([fit.held_out_row(index, row.model) for index, row in enumerate(rows)]),
    )
