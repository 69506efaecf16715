from __future__ import annotations

import pytest

from meshwright.planner.validation import interval
from meshwright.planner.validation.interval import (
    COVERAGE,
    ResidualRecord,
    calibrated_level,
    residuals_between,
    without,
)

ALIKE = {f"m{index}": tuple(1.0 + 0.01 * (index - 10) for _ in range(5)) for index in range(21)}


def test_few_ratios_are_held_whole() -> None:
    found = residuals_between([1.2, 0.9, 1.0])
    assert (found.rows, found.low, found.high) == (3, 0.9, 1.2)


def test_many_ratios_lose_their_tails() -> None:
    found = residuals_between([index / 100 for index in range(1, 1000)])
    assert found.low == pytest.approx(0.5, abs=0.02)
    assert found.high == pytest.approx(9.5, abs=0.02)


def test_a_model_has_no_part_in_its_own_interval() -> None:
    apart = without({**ALIKE, "odd": (9.0,)}, "odd", COVERAGE)
    assert apart is not None
    assert apart.high < 1.2
    assert without({"a": (1.0,), "b": (1.0,)}, "a", COVERAGE) is None


def test_the_level_makes_up_for_runs_of_one_model_that_err_alike() -> None:
    level = calibrated_level(ALIKE)
    inside = [
        residuals.low <= ratio <= residuals.high
        for model, ratios in ALIKE.items()
        if (residuals := without(ALIKE, model, level)) is not None
        for ratio in ratios
    ]
    assert level >= COVERAGE
    assert sum(inside) >= COVERAGE * len(inside)


def test_an_unseen_model_has_no_part_in_the_level_of_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs far off widen the intervals of others, never their own."""
    odd = {**ALIKE, "odd": tuple(5.0 + index for index in range(20))}
    record = ResidualRecord(source="test", coverage=COVERAGE, by_kind={}, ratios={"dense": odd})
    monkeypatch.setattr(interval, "residual_record", lambda: record)
    interval.residuals_without.cache_clear()
    found = interval.residuals_without("dense", "odd")
    seen = interval.residuals_without("dense", "m0")
    assert interval.residuals_without("moe", "odd") is None
    interval.residuals_without.cache_clear()
    assert found == without(odd, "odd", calibrated_level(ALIKE))
    assert found is not None
    assert seen is not None
    assert found.level == calibrated_level(ALIKE) < calibrated_level(odd)
