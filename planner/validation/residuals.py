"""Residuals of runs held apart from the fit, written into the package: part of `meshwright validate --fit`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshwright.planner.validation.interval import (
    COVERAGE,
    PACKAGED,
    ResidualRecord,
    calibrated_level,
    residual_record,
    residuals_between,
    residuals_without,
)
from meshwright.planner.validation.rows import packaged_path
from meshwright.planner.validation.validation import RowResult

KINDS = ("dense", "moe")
DIGITS = 4
SOURCE = "meshwright validate --fit: packaged runs, each predicted by the fit without its model"


def residuals_of(results: Sequence[RowResult]) -> ResidualRecord:
    """The middle 90 % of measured over predicted step time, which is predicted over measured tokens/s."""
    ratios: dict[str, dict[str, tuple[float, ...]]] = {kind: {} for kind in KINDS}
    for result in results:
        if result.held_out_error is not None and result.kind in ratios:
            models = ratios[result.kind]
            ratio = round(1.0 + result.held_out_error, DIGITS)
            models[result.model] = (*models.get(result.model, ()), ratio)
    by_kind = {
        kind: residuals_between((ratio for row in models.values() for ratio in row), calibrated_level(models))
        for kind, models in ratios.items()
    }
    return ResidualRecord(source=SOURCE, coverage=COVERAGE, by_kind=by_kind, ratios=ratios)


def write_residuals(results: Sequence[RowResult]) -> None:
    """Replace the packaged residuals."""
    record = residuals_of(results)
    packaged_path(PACKAGED).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=0) + b"\n")
    residual_record.cache_clear()
    residuals_without.cache_clear()
