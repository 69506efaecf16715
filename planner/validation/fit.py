"""Fits a framework's free parameters to measured throughput: robust least squares on logarithms, deterministic.

The loss of a row is Cauchy's, of the logarithm of predicted over measured tokens/s: an odd row pulls less than an
ordinary one, and each model counts by the square root of its rows, so that one page of forty near-copies does not
decide alone. A weak pull towards the start keeps a parameter where the rows say nothing about it. Gauss-Newton: the
predictions are linearised by forward differences, the loss of the linear ones is minimised coordinate by coordinate
inside the bounds, and again from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from meshwright.costmodel.value import Value
from meshwright.planner.validation.free_parameters import FreeParameter, Values

Array = NDArray[np.float64]
Points = Sequence[tuple[int, tuple[float, ...]]]
"""Which row is predicted with which values."""
Predict = Callable[[Points], Sequence[float]]
"""Logarithm of predicted over measured tokens/s for each."""

ITERATIONS = 4
NUM_SLOPES = 2
"""Slopes are taken at the start, which all problems share, and once more; then they change little."""
DIFFERENCE = 0.05
SCALE = 0.08
PULL = 0.1
SWEEPS = 40
GOLDEN = (5**0.5 - 1) / 2
HALVINGS = 30
DIGITS = 4


class FitProblem(Value, frozen=True, kw_only=True):
    """Parameters to be fitted to some of the rows, each of a model."""

    parameters: tuple[FreeParameter, ...]
    rows: tuple[int, ...]
    models: tuple[str, ...]

    @property
    def weights(self) -> Array:
        """1 / sqrt(rows of the model), so that a model's rows together weigh the root of their number."""
        counts = Counter(self.models)
        return np.array([counts[model] ** -0.5 for model in self.models])

    def values(self, unit: Array) -> tuple[float, ...]:
        """From coordinates between 0 and 1 to values, to the digits that are kept."""
        return tuple(
            float(f"{parameter.low + float(share) * (parameter.high - parameter.low):.{DIGITS}g}")
            for parameter, share in zip(self.parameters, unit, strict=True)
        )

    @property
    def start(self) -> Array:
        """The coordinates of the start."""
        return np.array([(one.start - one.low) / (one.high - one.low) for one in self.parameters])

    def named(self, unit: Array) -> Values:
        """The values by name."""
        return dict(zip((one.name for one in self.parameters), self.values(unit), strict=True))


def fit_all(problems: Sequence[FitProblem], predict: Predict) -> list[Values]:
    """Fit several problems over the same rows; they go forward together, so that equal predictions are made once."""
    units = [problem.start for problem in problems]
    best = [(float("inf"), unit) for unit in units]
    slopes: list[Array] = [np.empty(0)] * len(problems)
    for iteration in range(ITERATIONS + 1):
        refreshes = iteration < NUM_SLOPES
        designs = [_design(problem, unit, refreshes) for problem, unit in zip(problems, units, strict=True)]
        known = _predicted(problems, designs, predict)
        for index, problem in enumerate(problems):
            residuals = _residuals(problem, units[index], known)
            found = _loss(problem, residuals, units[index])
            if found < best[index][0]:
                best[index] = (found, units[index])
            if refreshes:
                slopes[index] = _slopes(problem, designs[index], residuals, known)
            if iteration < ITERATIONS:
                units[index] = _minimise(problem, residuals, slopes[index], units[index])
    return [problem.named(unit) for problem, (_, unit) in zip(problems, best, strict=True)]


def _design(problem: FitProblem, unit: Array, with_steps: bool) -> list[Array]:
    """The point, and one step along each parameter, backwards where forwards leaves the bounds."""
    points = [unit]
    for index in range(len(problem.parameters) if with_steps else 0):
        moved = unit.copy()
        moved[index] += DIFFERENCE if unit[index] + DIFFERENCE <= 1.0 else -DIFFERENCE
        points.append(moved)
    return points


Known = dict[tuple[int, tuple[float, ...]], float]


def _predicted(problems: Sequence[FitProblem], designs: list[list[Array]], predict: Predict) -> Known:
    """All predictions that are needed, row by row: what the rows share is then computed once."""
    wanted = {
        (row, problem.values(point))
        for problem, design in zip(problems, designs, strict=True)
        for point in design
        for row in problem.rows
    }
    points = sorted(wanted)
    return dict(zip(points, predict(points), strict=True))


def _residuals(problem: FitProblem, unit: Array, known: Known) -> Array:
    values = problem.values(unit)
    return np.array([known[row, values] for row in problem.rows])


def _slopes(problem: FitProblem, design: list[Array], residuals: Array, known: Known) -> Array:
    columns = [
        (_residuals(problem, moved, known) - residuals) / (moved[index] - design[0][index])
        for index, moved in enumerate(design[1:])
    ]
    return np.column_stack(columns)


def _loss(problem: FitProblem, residuals: Array, unit: Array) -> float:
    scaled = residuals / SCALE
    rows = problem.weights * np.log1p(scaled * scaled)
    return float(rows.sum() + PULL * len(set(problem.models)) * ((unit - problem.start) ** 2).sum())


def _minimise(problem: FitProblem, residuals: Array, slopes: Array, origin: Array) -> Array:
    """The least loss of linear predictions, by golden sections along one parameter after the other."""
    unit = origin.copy()
    for _ in range(SWEEPS):
        for index in range(len(unit)):
            unit[index] = _golden(problem, residuals, slopes, origin, unit, index)
    return unit


def _golden(problem: FitProblem, residuals: Array, slopes: Array, origin: Array, unit: Array, index: int) -> float:
    others = residuals + slopes @ (unit - origin) - slopes[:, index] * (unit[index] - origin[index])

    def loss(value: float) -> float:
        moved = unit.copy()
        moved[index] = value
        return _loss(problem, others + slopes[:, index] * (value - origin[index]), moved)

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        inner, outer = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if loss(inner) <= loss(outer):
            high = outer
        else:
            low = inner
    return min((0.0, 1.0, (low + high) / 2), key=loss)
