"""Integer programs written with PuLP 3.3 or 4.x, solved by HiGHS in process.

PuLP is where a program is written down. HiGHS then holds it in memory, so that rows can be added between solves and the
bound is HiGHS's own: PuLP's status calls a time-out optimal (3.3), and its bounds are not always true (4.2).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import highspy
import numpy as np
import numpy.typing as npt
import pulp

from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.effort import (
    INTERRUPTION_POINT,
    INTERRUPTION_POINT_NONZERO,
    PRESOLVED_NONZERO,
    SIMPLEX_ITERATION,
    Effort,
)

Variable = Any
"""A PuLP variable; PuLP has no complete annotations."""

RANDOM_SEED = 0
STDOUT = 1
NEGLIGIBLE = 1e-12
"""Coefficients smaller than this share of a row's largest are rounding errors of sums that cancel."""


class Program:
    """A linear program to minimise, under construction; hides what differs between PuLP 3.3 and 4.x."""

    def __init__(self, name: str) -> None:
        self.problem: Any = pulp.LpProblem(name, pulp.LpMinimize)
        self.variables: list[Variable] = []

    def variable(self, name: str, upper: float | None = None, *, integer: bool = False) -> Variable:
        """A new variable, at least 0."""
        category = pulp.LpInteger if integer else pulp.LpContinuous
        if hasattr(self.problem, "add_variable"):
            variable = self.problem.add_variable(name, 0, upper, cat=category)
        else:
            variable = pulp.LpVariable(name, 0, upper, cat=category)
            self.problem.addVariable(variable)
        self.variables.append(variable)
        return variable

    def sum(self, terms: Iterable[tuple[Variable, float]]) -> Any:  # noqa: ANN401
        """The linear expression of (variable, coefficient) pairs."""
        merged: dict[Any, float] = {}
        constant = 0.0
        for term, coefficient in terms:
            if isinstance(term, pulp.LpAffineExpression):
                constant += coefficient * term.constant
                for variable, inner in term.items():
                    merged[variable] = merged.get(variable, 0.0) + coefficient * inner
            elif coefficient:
                merged[term] = merged.get(term, 0.0) + coefficient
        expression = pulp.LpAffineExpression
        total = expression.from_dict(merged) if hasattr(expression, "from_dict") else expression(merged)
        return total + constant if constant else total

    def require(self, constraint: Any) -> None:  # noqa: ANN401
        """Adds a constraint, such as `expression <= 3`."""
        self.problem += constraint

    def minimise(self, expression: Any) -> None:  # noqa: ANN401
        """Sets the objective."""
        self.problem += expression

    @property
    def constraints(self) -> list[Any]:
        """All constraints, in order."""
        found = self.problem.constraints
        return list(found()) if callable(found) else list(found.values())


class SolveStatus(StrEnum):
    """What a solve proved. FEASIBLE: a solution and a bound, not proven optimal; UNKNOWN: a bound at most."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SolveResult:
    """`bound`: HiGHS's dual bound (the objective of a solved linear program); `values`: empty without a solution."""

    status: SolveStatus
    objective: float
    bound: float
    values: Array


class HighsModel:
    """A program inside HiGHS: columns and rows can be added between solves. One thread, fixed seed.

    HiGHS has one scheduler a process, and refuses every solve that asks for another number of threads: one that other
    code left behind is ended.
    """

    def __init__(self, program: Program) -> None:
        highspy.Highs.resetGlobalScheduler(True)
        self._highs = _new_highs()
        for option, value in (("output_flag", False), ("threads", 1), ("random_seed", RANDOM_SEED)):
            self._highs.setOptionValue(option, value)
        _check(self._highs.passModel(_to_highs(program)))
        self.num_columns = len(program.variables)

    def add_column(self, lower: float, upper: float, *, integer: bool = False) -> int:
        """A new variable with cost 0; its index."""
        _check(self._highs.addCol(0.0, lower, upper, 0, np.empty(0, dtype=np.int32), np.empty(0)))
        index, self.num_columns = self.num_columns, self.num_columns + 1
        if integer:
            self._highs.changeColIntegrality(index, highspy.HighsVarType.kInteger)
        return index

    def add_row(self, lower: float, indices: Sequence[int] | npt.NDArray[np.int64], coefficients: Array) -> None:
        """A new row `coefficients . columns >= lower`."""
        chosen = np.flatnonzero(np.abs(coefficients) > NEGLIGIBLE * np.abs(coefficients).max(initial=0.0))
        columns = np.asarray(indices, dtype=np.int32)[chosen]
        _check(self._highs.addRow(lower, highspy.kHighsInf, len(columns), columns, np.asarray(coefficients)[chosen]))

    def set_bounds(self, index: int, lower: float, upper: float) -> None:
        """New bounds of a variable."""
        _check(self._highs.changeColBounds(index, lower, min(upper, highspy.kHighsInf)))

    def set_all_bounds(self, indices: npt.NDArray[np.int64], lower: Array, upper: Array) -> None:
        """New bounds of many variables."""
        _check(self._highs.changeColsBounds(len(indices), indices.astype(np.int32), lower, upper))

    def set_integer(self, indices: npt.NDArray[np.int64], *, integer: bool) -> None:
        """Makes variables integer, or continuous."""
        kind = highspy.HighsVarType.kInteger if integer else highspy.HighsVarType.kContinuous
        for index in indices.tolist():
            self._highs.changeColIntegrality(index, kind)

    def solve(self, effort: Effort, *, integers: bool, relative_gap: float = 0.0) -> SolveResult:
        """Solves the program, or its relaxation without integrality, as far as the effort goes."""
        self._highs.setOptionValue("solve_relaxation", not integers)
        if integers:
            return self._solve_integers(effort, relative_gap)
        self._highs.setOptionValue("simplex_iteration_limit", _whole(effort.times(SIMPLEX_ITERATION)))
        self._run()
        effort.spend(self._highs.getInfo().simplex_iteration_count * SIMPLEX_ITERATION)
        return self._result(integers=False)

    def _solve_integers(self, effort: Effort, relative_gap: float) -> SolveResult:
        """Branch and bound, stopped at one of HiGHS's interruption points; not begun where presolve is too much."""
        num_nonzeros = self._highs.getNumNz()
        effort.spend(num_nonzeros * PRESOLVED_NONZERO)
        if effort.is_spent:
            return _without_solution(SolveStatus.UNKNOWN, -float("inf"))
        self._highs.setOptionValue("mip_rel_gap", relative_gap)
        self._highs.setOptionValue("simplex_iteration_limit", highspy.kHighsIInf)
        interrupt = _Interrupt(effort, INTERRUPTION_POINT + num_nonzeros * INTERRUPTION_POINT_NONZERO)
        self._highs.cbMipInterrupt.subscribe(interrupt)
        try:
            self._run()
        finally:
            self._highs.cbMipInterrupt.unsubscribe(interrupt)
        return self._result(integers=True)

    def _run(self) -> None:
        """Runs HiGHS; where it got stuck, once more from the beginning, after an error of its own with another seed."""
        self._highs.run()
        status = self._highs.getModelStatus()
        assert status != highspy.HighsModelStatus.kNotset, "HiGHS solved nothing"
        if status == highspy.HighsModelStatus.kUnknown:
            self._again()
        elif status == highspy.HighsModelStatus.kSolveError:
            self._highs.setOptionValue("random_seed", RANDOM_SEED + 1)
            self._again()
            self._highs.setOptionValue("random_seed", RANDOM_SEED)

    def _again(self) -> None:
        self._highs.clearSolver()
        self._highs.run()

    def _result(self, *, integers: bool) -> SolveResult:
        highs, info = self._highs, self._highs.getInfo()
        model_status = highs.getModelStatus()
        if model_status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
            return _without_solution(SolveStatus.INFEASIBLE, float("inf"))
        optimal = model_status == highspy.HighsModelStatus.kOptimal
        bound = info.mip_dual_bound if integers else (info.objective_function_value if optimal else -float("inf"))
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return _without_solution(SolveStatus.UNKNOWN, bound)
        return SolveResult(
            status=SolveStatus.OPTIMAL if optimal else SolveStatus.FEASIBLE,
            objective=info.objective_function_value,
            bound=bound,
            values=np.array(highs.getSolution().col_value),
        )


class _Interrupt:
    """Called at HiGHS's interruption points: spends so much effort, and stops the solve when none is left."""

    def __init__(self, effort: Effort, amount: float) -> None:
        self._effort, self._amount = effort, amount

    def __call__(self, event: Any) -> None:  # noqa: ANN401
        self._effort.spend(self._amount)
        if self._effort.is_spent:
            event.interrupt()


def _whole(number: float) -> int:
    """The number of iterations, as large as HiGHS's integers at most."""
    return int(min(number, highspy.kHighsIInf))


def _check(status: highspy.HighsStatus) -> None:
    """HiGHS refuses, say, a row that names a column twice, and goes on without it."""
    assert status != highspy.HighsStatus.kError, f"HiGHS refused a change of the program: {status}"


def _without_solution(status: SolveStatus, bound: float) -> SolveResult:
    return SolveResult(status=status, objective=float("inf"), bound=bound, values=np.empty(0))


def solver_text() -> str:
    """Solver and modelling layer with their versions, for the certificate."""
    return f"HiGHS {_new_highs().version()}, PuLP {pulp.__version__}"


def _new_highs() -> highspy.Highs:
    """An instance whose constructor's banner goes nowhere: no option can silence it, since options come later."""
    sys.stdout.flush()
    saved, nowhere = os.dup(STDOUT), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STDOUT)
        return highspy.Highs()
    finally:
        os.dup2(saved, STDOUT)
        os.close(saved)
        os.close(nowhere)


def _to_highs(program: Program) -> highspy.HighsLp:
    """The program as HiGHS's own arrays, columns in the order in which variables were made."""
    index = {variable.name: column for column, variable in enumerate(program.variables)}
    starts, columns, values, lower, upper = [0], [], [], [], []
    for constraint in program.constraints:
        for variable, coefficient in constraint.items():
            columns.append(index[variable.name])
            values.append(float(coefficient))
        starts.append(len(columns))
        lower.append(_bound(constraint.getLb(), -highspy.kHighsInf))
        upper.append(_bound(constraint.getUb(), highspy.kHighsInf))
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(program.variables), len(lower)
    model.col_cost_ = _costs(program, index)
    model.col_lower_ = np.array([_bound(v.lowBound, -highspy.kHighsInf) for v in program.variables])
    model.col_upper_ = np.array([_bound(v.upBound, highspy.kHighsInf) for v in program.variables])
    model.row_lower_, model.row_upper_ = np.array(lower), np.array(upper)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.array(starts, dtype=np.int32)
    model.a_matrix_.index_ = np.array(columns, dtype=np.int32)
    model.a_matrix_.value_ = np.array(values)
    kinds = {True: highspy.HighsVarType.kInteger, False: highspy.HighsVarType.kContinuous}
    model.integrality_ = [kinds[variable.cat == pulp.LpInteger] for variable in program.variables]
    return model


def _costs(program: Program, index: dict[str, int]) -> Array:
    costs = np.zeros(len(program.variables))
    for variable, coefficient in program.problem.objective.items():
        costs[index[variable.name]] = coefficient
    return costs


def _bound(value: float | None, infinite: float) -> float:
    return infinite if value is None else float(value)
