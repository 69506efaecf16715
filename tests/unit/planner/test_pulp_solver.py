from __future__ import annotations

import highspy
import numpy as np
import pulp
import pytest

from meshwright.planner.effort import SIMPLEX_ITERATION, Effort
from meshwright.planner.pulp_solver import HighsModel, Program, SolveStatus, solver_text


def knapsack() -> Program:
    """Most value of 3x + 4y + 5z in 2x + 3y + 4z <= 8, as a minimum, with a continuous w that costs."""
    program = Program("knapsack")
    x, y, z = (program.variable(name, 1, integer=True) for name in "xyz")
    w = program.variable("w")
    program.minimise(program.sum([(x, -3.0), (y, -4.0), (z, -5.0), (w, 1.0)]))
    program.require(program.sum([(x, 2.0), (y, 3.0), (z, 4.0), (w, -1.0)]) <= 8)
    return program


def test_highs_solves_what_pulp_describes() -> None:
    program = knapsack()
    model = HighsModel(program)
    relaxed, whole = model.solve(Effort(), integers=False), model.solve(Effort(), integers=True)
    assert relaxed.objective == pytest.approx(-11.0)
    assert whole.status is SolveStatus.OPTIMAL
    assert whole.objective == whole.bound == pytest.approx(-11.0)
    program.problem.solve(pulp.HiGHS(msg=False))
    assert pulp.value(program.problem.objective) == pytest.approx(whole.objective)


def test_another_solver_of_the_process_with_more_threads_is_not_in_the_way() -> None:
    highspy.Highs.resetGlobalScheduler(True)
    other = highspy.Highs()
    other.setOptionValue("output_flag", False)
    other.setOptionValue("threads", 2)
    other.addCol(-1.0, 0.0, 1.5, 0, np.empty(0, dtype=np.int32), np.empty(0))
    other.changeColIntegrality(0, highspy.HighsVarType.kInteger)
    assert other.run() == highspy.HighsStatus.kOk
    assert HighsModel(knapsack()).solve(Effort(1e6), integers=True).status is SolveStatus.OPTIMAL


def test_rows_columns_and_bounds_are_added_between_solves() -> None:
    model = HighsModel(knapsack())
    model.set_bounds(3, 0.0, 0.0)
    assert model.solve(Effort(), integers=True).objective == pytest.approx(-9.0)
    extra = model.add_column(0.0, 2.0, integer=True)
    model.add_row(1.5, [extra, 2], np.array([1.0, 1.0]))
    result = model.solve(Effort(), integers=True)
    assert result.objective == pytest.approx(-8.0 if result.values[2] < 0.5 else -9.0)
    assert result.values[extra] + result.values[2] >= 1.5
    model.set_all_bounds(np.array([0, 1, 2]), np.zeros(3), np.zeros(3))
    assert model.solve(Effort(), integers=True).objective == pytest.approx(0.0)
    model.add_row(1.0, [0], np.array([1.0]))
    assert model.solve(Effort(), integers=True).status is SolveStatus.INFEASIBLE


def hard() -> Program:
    rng = np.random.default_rng(0)
    program = Program("hard")
    chosen = [program.variable(f"x{i}", 1, integer=True) for i in range(60)]
    program.minimise(program.sum((v, -float(c)) for v, c in zip(chosen, rng.integers(50, 99, 60), strict=True)))
    for _ in range(12):
        weights = rng.integers(50, 99, 60)
        program.require(
            program.sum((v, float(c)) for v, c in zip(chosen, weights, strict=True)) <= float(weights.sum() // 2)
        )
    return program


def test_out_of_effort_is_not_optimal() -> None:
    effort = Effort(100.0)
    result = HighsModel(hard()).solve(effort, integers=True)
    assert effort.is_spent
    assert result.status in (SolveStatus.FEASIBLE, SolveStatus.UNKNOWN)
    assert -float("inf") < result.bound <= result.objective


def test_equal_effort_ends_at_the_same_place() -> None:
    first, again = (HighsModel(hard()).solve(Effort(300.0), integers=True) for _ in range(2))
    assert (first.status, first.objective, first.bound) == (again.status, again.objective, again.bound)
    assert first.values.tolist() == again.values.tolist()


def test_more_effort_never_says_less() -> None:
    results = [HighsModel(hard()).solve(Effort(amount), integers=True) for amount in (100.0, 300.0, 900.0)]
    bounds, objectives = [result.bound for result in results], [result.objective for result in results]
    assert bounds == sorted(bounds)
    assert objectives == sorted(objectives, reverse=True)
    assert bounds[-1] > bounds[0]


def test_a_program_whose_presolve_costs_too_much_is_not_begun() -> None:
    effort = Effort(1.0)
    result = HighsModel(hard()).solve(effort, integers=True)
    assert (result.status, effort.left) == (SolveStatus.UNKNOWN, 0.0)
    assert not len(result.values)


def test_a_linear_program_ends_with_its_iterations() -> None:
    effort = Effort(SIMPLEX_ITERATION)
    result = HighsModel(hard()).solve(effort, integers=False)
    assert (result.status, effort.is_spent) == (SolveStatus.UNKNOWN, True)
    full = Effort(1e6)
    assert HighsModel(hard()).solve(full, integers=False).status is SolveStatus.OPTIMAL
    assert SIMPLEX_ITERATION < 1e6 - full.left < 1e3


def test_solving_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert HighsModel(knapsack()).solve(Effort(), integers=True).status is SolveStatus.OPTIMAL
    assert solver_text().startswith("HiGHS 1.")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
