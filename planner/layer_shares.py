"""The share of a virtual stage's first or last layer, (sum over its parts) / (number of parts), in a linear program.

The quotient is neither convex nor concave, so it starts as a variable above a constant. Where a solution with k parts
pays more than that, a row is added that is exact for k parts and below the quotient elsewhere:

    y >= (sum - low (N - k) - (high - low) max(0, N - k)) / k

with N parts in all and [low, high] the range of one part's seconds: for N < k it fills up with the cheapest part, for
N > k it takes the dearest ones away.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from meshwright.costmodel.simulate import CutCoefficients, Term
from meshwright.costmodel.step import SPLIT_BACKWARD
from meshwright.planner.count_columns import CountColumns
from meshwright.planner.point import PointProblem, needed_layers
from meshwright.planner.pulp_solver import HighsModel
from meshwright.planner.stage_totals import Counts, tables

_FULL = {
    Term.FORWARD_LAST_LAYER: "forward_s",
    Term.BACKWARD_INPUT_LAST_LAYER: "backward_s",
    Term.PARAM_GATHER_FIRST_LAYER: "param_gather_s",
    Term.GRAD_REDUCE_FIRST_LAYER: "grad_reduce_s",
}
_SPLIT = _FULL | {Term.BACKWARD_INPUT_LAST_LAYER: "dgrad_s", Term.BACKWARD_WEIGHT_LAST_LAYER: "wgrad_s"}


class LayerShares:
    """The share columns of one program, made when a path first pays them."""

    def __init__(self, problem: PointProblem, highs: HighsModel, counts: CountColumns, per_second: float) -> None:
        self._problem, self._table = problem, tables(problem)
        self._highs, self._counts, self._per_second = highs, counts, per_second
        self._terms = _SPLIT if problem.kind in SPLIT_BACKWARD else _FULL
        self._columns: dict[tuple[int, str], int] = {}
        self._sharpened: set[tuple[int, str, int]] = set()
        spare = len(problem.layer_types) - needed_layers(problem)
        self._fewest = [problem.fewest_layers(stage) for stage in range(problem.num_virtual_stages)]
        self._most = [fewest + spare for fewest in self._fewest]

    def paid(self, path: CutCoefficients) -> Iterator[tuple[int, str, float]]:
        """(virtual stage, field, times) of the shares that the path pays."""
        for term, name in self._terms.items():
            times = path.of(term)[self._table.device, self._table.chunk]
            for stage in np.flatnonzero(times):
                yield int(stage), name, float(times[stage])

    def column(self, stage: int, name: str) -> int:
        """The column of a share."""
        key = (stage, name)
        if key not in self._columns:
            least = self._least_s(stage, name) * self._per_second
            self._columns[key] = self._highs.add_column(least, float("inf"))
        return self._columns[key]

    def sharpen(self, path: CutCoefficients, counts: Counts, tolerance_s: float) -> None:
        """Adds exact rows for the shares that the path pays, where their constants together miss the tolerance."""
        missing = []
        for stage, name, times in self.paid(path):
            parts = int(counts[stage].sum() + self._table.num_ends[stage])
            whole_s = counts[stage] @ self._table.column(name) + self._table.end(name)[stage]
            missing.append((times * (whole_s / max(1, parts) - self._least_s(stage, name)), stage, name, parts))
        if sum(entry[0] for entry in missing) <= tolerance_s:
            return
        for _, stage, name, parts in missing:
            if parts and (stage, name, parts) not in self._sharpened:
                self._sharpened.add((stage, name, parts))
                self._add_exact_row(stage, name, parts)

    def _range_s(self, stage: int, name: str) -> tuple[float, float]:
        """The least and the most seconds of one part of the stage; 0 if the stage can be empty."""
        seconds = self._table.column(name)
        low, high = float(seconds.min()), float(seconds.max())
        ends = self._table.num_ends[stage]
        if ends:
            end_s = float(self._table.end(name)[stage]) / ends
            return min(low, end_s), max(high, end_s)
        return (low if self._fewest[stage] else 0.0), high

    def _least_s(self, stage: int, name: str) -> float:
        """A lower bound of the share over all numbers of layers; the quotient is monotone in them."""
        low, ends = float(self._table.column(name).min()), int(self._table.num_ends[stage])
        end_s = float(self._table.end(name)[stage])
        numbers = (self._fewest[stage], self._most[stage])
        return min((count * low + end_s) / max(1, count + ends) for count in numbers)

    def _add_exact_row(self, stage: int, name: str, parts: int) -> None:
        low, high = self._range_s(stage, name)
        ends = int(self._table.num_ends[stage])
        seconds = (self._table.column(name) - low) * self._per_second / parts
        layers, values = self._counts.stage_row(stage, -seconds)
        excess = self._excess(stage, parts) if high > low else []
        scale = (high - low) * self._per_second / parts
        fixed_s = (float(self._table.end(name)[stage]) + low * (parts - ends)) / parts
        columns = [self.column(stage, name), *layers, *excess]
        self._highs.add_row(fixed_s * self._per_second, columns, np.array([1.0, *values, *[scale] * len(excess)]))

    def _excess(self, stage: int, parts: int) -> list[int]:
        """A column w <= max(0, N - k), which a binary tells the sign of; none if the stage cannot exceed k parts."""
        ends, fewest = int(self._table.num_ends[stage]), self._fewest[stage]
        most = self._most[stage] + ends - parts
        if most <= 0:
            return []
        excess = self._highs.add_column(0.0, float(most))
        exceeds = self._highs.add_column(0.0, 1.0, integer=True)
        self._highs.add_row(0.0, [excess, exceeds], np.array([-1.0, float(most)]))
        layers, values = self._counts.stage_row(stage, np.ones(len(self._table.items)))
        self._highs.add_row(
            float(fewest), [excess, exceeds, *layers], np.array([-1.0, -float(parts - fewest - ends), *values])
        )
        return [excess]
