"""The columns behind the counts n[virtual stage, item]: one each, or for alike chunks a common base and a rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.alike_chunks import alike_kinds, alike_stages
from meshwright.planner.point import PointProblem
from meshwright.planner.pulp_solver import Program, Variable
from meshwright.planner.stage_totals import tables

NONE = -1


class CountColumns:
    """Adds the columns to a program, tied to the layers of each type; translates between counts and columns."""

    def __init__(self, program: Program, problem: PointProblem, layers: list[dict[int, Variable]]) -> None:
        self._program, self._problem, self._table = program, problem, tables(problem)
        shape = (problem.num_virtual_stages, len(self._table.items))
        self._own, self._base = np.full(shape, NONE), np.full(shape, NONE)
        for stages in filter(None, alike_stages(problem)):
            for kind in sorted(alike_kinds(problem)):
                self._add_alike(stages, kind)
        for stage, item in np.argwhere(self._own == NONE).tolist():
            total = problem.layer_types.count(int(self._table.item_types[item]))
            self._own[stage, item] = self._add(f"n{stage}_{item}", total)
        for stage, by_type in enumerate(layers):
            for kind, number in by_type.items():
                items = np.flatnonzero(self._table.item_types == kind).tolist()
                program.require(program.sum(self.terms(stage, items)) - number == 0)

    def _add(self, name: str, upper: float) -> int:
        self._program.variable(name, upper, integer=True)
        return len(self._program.variables) - 1

    def _add_alike(self, stages: tuple[int, ...], kind: int) -> None:
        """Per item a base for all the stages, and who has one layer more; all that have it use one item."""
        most = self._problem.layer_types.count(kind) // len(stages)
        chosen = []
        for item in np.flatnonzero(self._table.item_types == kind).tolist():
            self._base[list(stages), item] = self._add(f"base{stages[0]}_{item}", most)
            chosen.append(self._program.variable(f"extra{stages[0]}_{item}", 1, integer=True))
            for stage in stages:
                self._own[stage, item] = self._add(f"x{stage}_{item}", 1)
            extras = ((self._program.variables[self._own[stage, item]], 1) for stage in stages)
            self._program.require(self._program.sum(extras) - len(stages) * chosen[-1] <= 0)
        self._program.require(self._program.sum((extra, 1) for extra in chosen) <= 1)

    def terms(self, stage: int, items: list[int]) -> list[tuple[Variable, float]]:
        """The sum of n[stage, item] over the items, as (variable, coefficient) pairs."""
        variables = self._program.variables
        columns = np.concatenate([self._own[stage, items], self._base[stage, items]])
        return [(variables[column], 1.0) for column in columns.tolist() if column != NONE]

    def row(self, coefficients: Array) -> tuple[list[int], list[float]]:
        """(columns, coefficients) of the sum of coefficients [virtual stage, item] x counts."""
        return self._gather(self._own, self._base, coefficients)

    def stage_row(self, stage: int, coefficients: Array) -> tuple[list[int], list[float]]:
        """(columns, coefficients) of the sum of coefficients [item] x counts of one virtual stage."""
        return self._gather(self._own[stage], self._base[stage], coefficients)

    def _gather(
        self, own: npt.NDArray[np.int64], base: npt.NDArray[np.int64], coefficients: Array
    ) -> tuple[list[int], list[float]]:
        shared = base != NONE
        columns = np.concatenate([own.ravel(), base[shared]])
        summed = np.bincount(columns, np.concatenate([coefficients.ravel(), coefficients[shared]]))
        used = np.flatnonzero(summed)
        return used.tolist(), summed[used].tolist()

    def counts(self, values: Array) -> Array:
        """n[virtual stage, item] of a solution; what the solver's tolerance puts below 0 is 0."""
        own, base = values[self._own], np.where(self._base == NONE, 0.0, values[self._base])
        result: Array = np.maximum(0.0, own + base)
        return result
