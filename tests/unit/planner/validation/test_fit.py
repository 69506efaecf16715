"""Fits to made-up rows whose parameters are known."""

from __future__ import annotations

import math

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.validation.fit import FitProblem, Points, fit_all
from meshwright.planner.validation.free_parameters import (
    MOST_A_FRAMEWORK,
    FreeParameter,
    free_parameters,
    start_values,
)

RATE = FreeParameter(name="rate", low=0.0, high=1.0, start=0.1, why="made up")
WAIT = FreeParameter(name="wait", low=0.0, high=2.0, start=0.5, why="made up")
LOADS = tuple(1.0 + index for index in range(12))


def made_up(points: Points) -> list[float]:
    """Times 1 + rate x load + wait, measured at rate 0.4 and wait 1.2; the last row is odd by a factor of three."""
    found = []
    for row, (rate, wait) in points:
        measured = 1.0 + 0.4 * LOADS[row] + 1.2
        if row == len(LOADS) - 1:
            measured *= 3.0
        found.append(math.log(measured / (1.0 + rate * LOADS[row] + wait)))
    return found


def problem(*rows: int) -> FitProblem:
    return FitProblem(parameters=(RATE, WAIT), rows=rows, models=tuple(f"m{row}" for row in rows))


def test_known_parameters_are_found_again_and_an_odd_row_pulls_little() -> None:
    clean, odd = fit_all([problem(*range(11)), problem(*range(12))], made_up)
    assert clean["rate"] == pytest.approx(0.4, abs=0.06)
    assert clean["wait"] == pytest.approx(1.2, abs=0.3)
    assert odd["rate"] == pytest.approx(clean["rate"], abs=0.12)


def test_equal_problems_give_equal_values() -> None:
    one, other = fit_all([problem(*range(8)), problem(*range(8))], made_up)
    assert one == other == fit_all([problem(*range(8))], made_up)[0]


def test_a_parameter_that_no_row_depends_on_stays_at_its_start() -> None:
    values = fit_all([problem(0, 1, 2)], lambda points: [0.0 for _ in points])[0]
    assert values == {"rate": pytest.approx(RATE.start), "wait": pytest.approx(WAIT.start)}


def test_bounds_hold() -> None:
    values = fit_all([problem(*range(6))], lambda points: [1.0 - p[0] - p[1] for _, p in points])[0]
    assert RATE.low <= values["rate"] <= RATE.high
    assert WAIT.low <= values["wait"] <= WAIT.high


def test_free_parameters_are_few_and_say_why() -> None:
    for framework, declared in free_parameters().items():
        assert 0 < len(declared) <= MOST_A_FRAMEWORK
        assert all(len(one.why) > 20 for one in declared)
        assert set(start_values(framework)) == {one.name for one in declared}
    assert start_values("unheard of") == {}


def test_a_start_outside_of_its_bounds_is_refused() -> None:
    with pytest.raises(InputError, match=r"start 2.0 is not between 0.0 and 1.0"):
        FreeParameter(name="x", low=0.0, high=1.0, start=2.0, why="")
