"""How far a measured step may lie from a predicted one: a 90 % interval from errors on runs held apart from the fit."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.validation.rows import packaged_path
from meshwright.planner.validation.statistics import quantile

PACKAGED = "residuals.json"
COVERAGE = 0.9
LEAST_MODELS = 3

Ratios = dict[str, tuple[float, ...]]
"""Measured over predicted step time, by model."""


class Residuals(Value, frozen=True, kw_only=True):
    """Quantiles of measured over predicted step time: `low` and `high` hold the middle `level` of `rows` runs.

    The level is somewhat more than 90 %, so that intervals hold 90 % of the runs of a model that they were not made
    from: runs of one model err alike, so that plain 90 % of others' would hold less.
    """

    rows: int
    low: float
    high: float
    level: float = COVERAGE


class ResidualRecord(Value, frozen=True, kw_only=True):
    """Residuals by kind, and how they were come by. `ratios`: measured over predicted step time, by kind and model."""

    source: str
    coverage: float
    by_kind: dict[str, Residuals]
    ratios: dict[str, Ratios]


@lru_cache(maxsize=1)
def residual_record() -> ResidualRecord:
    """The packaged residuals; `meshwright validate --fit` writes them anew."""
    return msgspec.json.decode(packaged_path(PACKAGED).read_bytes(), type=ResidualRecord)


def residuals_between(ratios: Iterable[float], level: float = COVERAGE) -> Residuals:
    """The middle `level` of ratios, as conformal prediction takes them: ranks of n + 1 places, so that few are wide.

    Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005 (split conformal quantiles).
    """
    ordered = sorted(ratios)
    number = len(ordered)
    tail = max(0.0, ((1.0 - level) / 2 * (number + 1) - 1.0) / max(1, number - 1))
    return Residuals(rows=number, low=quantile(ordered, tail), high=quantile(ordered, 1.0 - tail), level=level)


def step_time_interval(step_time_s: float, kind: str) -> tuple[float, float]:
    """Seconds between which a measured step lies with 90 % probability, for a `dense` or `moe` model.

    The quantiles are those of all packaged runs of that kind, over all frameworks, each predicted by a fit without its
    model; software of years ago is not left out. The prediction always lies inside.
    """
    by_kind = residual_record().by_kind
    if kind not in by_kind:
        raise InputError("kind", kind, f"is unknown; expected one of {', '.join(by_kind)}")
    residuals = by_kind[kind]
    return step_time_s * min(1.0, residuals.low), step_time_s * max(1.0, residuals.high)


@lru_cache(maxsize=512)
def residuals_without(kind: str, model: str) -> Residuals | None:
    """The quantiles from all models but one, and so their level: coverage is checked on unseen models.

    None where there are too few others.
    """
    ratios = residual_record().ratios.get(kind, {})
    return without(ratios, model, calibrated_level(_others(ratios, model)))


def without(ratios: Ratios, model: str, level: float) -> Residuals | None:
    """The quantiles of all models' ratios but one's."""
    others = _others(ratios, model)
    if len(others) < LEAST_MODELS:
        return None
    return residuals_between((ratio for found in others.values() for ratio in found), level)


def _others(ratios: Ratios, model: str) -> Ratios:
    return {name: found for name, found in ratios.items() if name != model}


def calibrated_level(ratios: Ratios) -> float:
    """The least level, in whole percent, whose intervals hold 90 % of rows of models that they are not made from."""
    for percent in range(round(100 * COVERAGE), 100):
        level = percent / 100
        inside = [
            residuals.low <= ratio <= residuals.high
            for model, found in ratios.items()
            if (residuals := without(ratios, model, level)) is not None
            for ratio in found
        ]
        if inside and sum(inside) >= COVERAGE * len(inside):
            return level
    return 0.99 if len(ratios) > LEAST_MODELS else COVERAGE
