"""How far a measured step may lie from a predicted one: a 90 % interval from the residuals of the published runs."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.validation.rows import packaged_path

PACKAGED = "residuals.json"


class Residuals(Value, frozen=True, kw_only=True):
    """Quantiles of measured over predicted step time: `low` and `high` hold the middle `coverage` of `rows` runs."""

    rows: int
    low: float
    high: float


class ResidualRecord(Value, frozen=True, kw_only=True):
    """Residuals by kind, and how they were come by."""

    source: str
    coverage: float
    by_kind: dict[str, Residuals]


@lru_cache(maxsize=1)
def residual_record() -> ResidualRecord:
    """The packaged residuals; `python -m meshwright.planner.validation.residuals` writes them anew."""
    return msgspec.json.decode(packaged_path(PACKAGED).read_bytes(), type=ResidualRecord)


def step_time_interval(step_time_s: float, kind: str) -> tuple[float, float]:
    """Seconds between which a measured step lies with 90 % probability, for a `dense` or `moe` model.

    The quantiles are those of all packaged runs of that kind, over all frameworks; software of years ago is not left
    out. The prediction always lies inside.
    """
    by_kind = residual_record().by_kind
    if kind not in by_kind:
        raise InputError("kind", kind, f"is unknown; expected one of {', '.join(by_kind)}")
    residuals = by_kind[kind]
    return step_time_s * min(1.0, residuals.low), step_time_s * max(1.0, residuals.high)
