"""Writes the packaged residuals anew: `python -m meshwright.planner.validation.residuals`."""

from __future__ import annotations

import msgspec

from meshwright.planner.validation.interval import PACKAGED, ResidualRecord, Residuals
from meshwright.planner.validation.rows import packaged_path, read_table
from meshwright.planner.validation.statistics import quantile
from meshwright.planner.validation.validation import RowResult, validate

COVERAGE = 0.9
KINDS = ("dense", "moe")
DIGITS = 4


def residuals_of(results: tuple[RowResult, ...]) -> ResidualRecord:
    """The middle 90 % of measured over predicted step time, which is predicted over measured tokens/s."""
    by_kind = {}
    for kind in KINDS:
        ratios = [1.0 + result.error for result in results if result.kind == kind and result.error is not None]
        tail = (1.0 - COVERAGE) / 2.0
        by_kind[kind] = Residuals(
            rows=len(ratios),
            low=round(quantile(ratios, tail), DIGITS),
            high=round(quantile(ratios, 1.0 - tail), DIGITS),
        )
    source = "measured over predicted step time of the packaged training_throughput.csv, all frameworks"
    return ResidualRecord(source=source, coverage=COVERAGE, by_kind=by_kind)


def write_residuals() -> None:
    """Predict all packaged rows and store their residuals."""
    record = residuals_of(validate(read_table(packaged_path())))
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    packaged_path(PACKAGED).write_bytes(text + b"\n")


if __name__ == "__main__":
    write_residuals()
