"""Solves one outer point: an integer program under the longest paths found so far, and the simulation that finds them.

    1. an assignment by rule: balanced split, fastest choices that fit (`incumbents`, `label_setting`)
    2. without integrality: solve, simulate the fractional stages, add their longest path, until both agree; then narrow
       how many layers each stage can have at all, by trying what lies on either side of a fraction
    3. with whole layers but mixed choices: solve, give the split whole choices by label setting, simulate, add the path
    4. with whole choices, until the best simulated step is within the gap of the bound

Step 3 mostly ends it, because rows from `device_curve` bound what whole choices on a device can do. Every row holds for
every assignment, so HiGHS's dual bound bounds the step time at any moment; and a path is the step time exactly at the
assignment it came from, so none is proposed twice below its simulated time.
"""

from __future__ import annotations

import numpy as np

from meshwright.costmodel.simulate import lower_bound_paths
from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.device_curve import least_seconds
from meshwright.planner.effort import SIMULATED_SLOT, Effort
from meshwright.planner.incumbents import balanced_split, fitting_mix
from meshwright.planner.layer_ranges import layer_places, layer_ranges
from meshwright.planner.memory_shortfall import leanest
from meshwright.planner.milp import PointModel
from meshwright.planner.moments import MomentRows, fits
from meshwright.planner.point import (
    MemoryShortfall,
    PointProblem,
    PointSolution,
    PointStatus,
    TooFewLayers,
    needed_layers,
)
from meshwright.planner.point_text import described, space_text
from meshwright.planner.pulp_solver import SolveStatus, solver_text
from meshwright.planner.stage_totals import Counts, longest_path, micro_batch_s, peak_memory_bytes, step_time_s, tables

MAX_ROOT_ROUNDS = 100
MAX_NODE_ROUNDS = 4
STALL_ROUNDS = 12
MAX_CURVE_POINTS = 8
INTEGRALITY_TOLERANCE = 1e-6
DEFAULT_EFFORT = 30_000.0

PRECISION = 1e-7
"""The gap that counts as none: wide enough for HiGHS's tolerance, 1e-6 of `milp.TIME_SCALE`."""


def solve_point(
    problem: PointProblem,
    *,
    cutoff_s: float | None = None,
    relative_gap: float = 1e-3,
    effort: float = DEFAULT_EFFORT,
) -> PointSolution:
    """The fastest assignment that fits, proven to within `relative_gap`.

    With a cutoff, ends as soon as nothing is faster than the cutoff (less the gap). Ends at the latest when the effort
    (`planner.effort`) is spent; equal problems get equal solutions.
    """
    needed = needed_layers(problem)
    if len(problem.layer_types) < needed:
        reason = TooFewLayers(num_layers=len(problem.layer_types), needed_layers=needed)
        return PointSolution(status=PointStatus.INFEASIBLE, reason=reason, space=space_text(problem))
    cutoff_s = float("inf") if cutoff_s is None else cutoff_s
    return _Solve(problem, cutoff_s, max(relative_gap, PRECISION), Effort(effort)).run()


class _Solve:
    """One solve: the program, the best assignment so far, and the bound."""

    def __init__(self, problem: PointProblem, cutoff_s: float, relative_gap: float, effort: Effort) -> None:
        self.problem, self.cutoff_s, self.relative_gap = problem, cutoff_s, relative_gap
        self.effort = effort
        self.best: Counts | None = None
        self.best_s = float("inf")
        self.lower_bound_s = 0.0
        self.num_cuts = 0
        self.splits: set[tuple[int, ...]] = set()

    def run(self) -> PointSolution:
        """Solve."""
        self._start()
        can_fit = self._relax()
        if not can_fit or (self.best is None and not self._is_done):
            counts, shortfall = leanest(self.problem, self.effort)
            proven = not can_fit or shortfall is None or shortfall.lower_bound_bytes > 0.0
            if proven and (shortfall is not None or (counts is None and not self.effort.is_spent)):
                return self._infeasible(shortfall)
            if counts is not None and shortfall is None:
                self._simulate(counts)
        while not self._is_done and self._split_round():
            pass
        while not self._is_done and self._integer_round():
            pass
        return self._solution()

    # What is known.

    @property
    def _target_s(self) -> float:
        """Only steps faster than this are of interest."""
        return min(self.cutoff_s, self.best_s) * (1.0 - self.relative_gap)

    @property
    def _is_done(self) -> bool:
        return self.lower_bound_s >= self._target_s or self.effort.is_spent

    def _raise_bound(self, bound_s: float) -> None:
        """Nothing below the target is faster than this."""
        self.lower_bound_s = max(self.lower_bound_s, min(bound_s, self._target_s))

    def _infeasible(self, reason: MemoryShortfall | None) -> PointSolution:
        return PointSolution(
            status=PointStatus.INFEASIBLE, reason=reason, solver=solver_text(), space=space_text(self.problem)
        )

    def _solution(self) -> PointSolution:
        proven = self.lower_bound_s >= self.best_s * (1.0 - self.relative_gap)
        status = PointStatus.OPTIMAL if proven else PointStatus.BOUNDED
        if self.best is None or (self.best_s > self.cutoff_s and not proven):
            status = PointStatus.CUT_OFF
        return PointSolution(
            status=status,
            step_time_s=self.best_s,
            lower_bound_s=self.lower_bound_s,
            num_cuts=self.num_cuts,
            solver=solver_text(),
            space=space_text(self.problem),
            **({} if self.best is None else described(self.problem, self.best)),
        )

    # The program and the simulation.

    def _start(self) -> None:
        """The first assignment, and the program with its first rows."""
        problem = self.problem
        first = self._mix(balanced_split(problem))
        work_s = micro_batch_s(problem, tables(problem).costs).mean() * len(problem.layer_types)
        typical_s = float(work_s * problem.num_micro_batches / problem.num_stages)
        simulated_s = typical_s if first is None else step_time_s(problem, first)
        self.model = PointModel(problem, simulated_s or 1.0)
        self.moments = MomentRows(self.model)
        for device, kind in layer_places(problem):
            self.model.add_curve(device, kind, least_seconds(problem, device, kind))
        known = (problem.kind, problem.num_stages, problem.num_micro_batches, problem.virtual_stages)
        for path in lower_bound_paths(*known, problem.overlap):
            self.model.add_path(path)
        if first is not None:
            self._simulate(first)

    def _mix(self, split: tuple[int, ...]) -> Counts | None:
        """Whole choices for a split that has not been tried yet."""
        if split in self.splits or any(n < self.problem.fewest_layers(stage) for stage, n in enumerate(split)):
            return None
        self.splits.add(split)
        return fitting_mix(self.problem, split)

    def _simulate(self, counts: Array | Counts) -> float:
        """Simulates an assignment and adds its longest path; keeps it if it is whole, fits and is the best so far."""
        simulated_s, path = longest_path(self.problem, counts)
        self.effort.spend(SIMULATED_SLOT * self.problem.num_virtual_stages * self.problem.num_micro_batches)
        self.model.add_path(path)
        self.num_cuts += 1
        if counts.dtype == np.int64:
            whole: Counts = counts.astype(np.int64, copy=False)
            self.model.sharpen_shares(path, whole, simulated_s * self.relative_gap / 4)
            peaks = peak_memory_bytes(self.problem, whole)
            if simulated_s < self.best_s and fits(self.problem.memory_limit_bytes, peaks):
                self.best, self.best_s = whole, simulated_s
        return simulated_s

    def _try_nearest(self, mixed: Array) -> None:
        """Tries the whole split nearest to a mixed assignment."""
        boundaries = np.rint(np.cumsum(mixed.sum(axis=1))).astype(np.int64)
        whole = self._mix(tuple(np.diff(boundaries, prepend=0).tolist()))
        if whole is not None:
            self._simulate(whole)

    # Without integrality.

    def _relax(self) -> bool:
        """Bounds the step, and narrows the layers per stage below the target; False if no assignment can fit."""
        low, high = layer_ranges(self.problem, self._target_s, self.model.branching_upper)
        self._add_curve_points(low, high)
        self.model.branch_on(low, high)
        node = self._relaxed_rounds(MAX_ROOT_ROUNDS)
        while node is not None:
            bound_s, values = node
            self._raise_bound(bound_s)
            if self._is_done or not len(values):
                return True
            self._try_nearest(self.model.counts(values))
            narrowed = self._probe(values[self.model.branching], low, high)
            self.model.branch_on(low, high)
            if not narrowed:
                return True
            node = self._relaxed_rounds(MAX_NODE_ROUNDS)
        if self._target_s == float("inf"):
            return False
        self._raise_bound(self._target_s)
        return True

    def _add_curve_points(self, low: Array, high: Array) -> None:
        """Makes the curves of `device_curve` exact where a device can have few numbers of layers."""
        for index, (device, kind) in enumerate(layer_places(self.problem)):
            if low[index] <= high[index] < low[index] + MAX_CURVE_POINTS:
                curve = least_seconds(self.problem, device, kind)
                self.model.add_curve_points(index, device, kind, curve, int(low[index]), int(high[index]))

    def _relaxed_rounds(self, max_rounds: int) -> tuple[float, Array] | None:
        """Solves, adding longest paths; (bound, solution), None where nothing is left."""
        node: tuple[float, Array] = (self.lower_bound_s, np.empty(0))
        bounds_s: list[float] = []
        for _ in range(max_rounds):
            result = self.model.solve(self.effort, integers=False)
            if result.status is SolveStatus.INFEASIBLE:
                return None
            if result.status is not SolveStatus.OPTIMAL:
                break
            node = (result.bound / self.model.per_second, result.values)
            bounds_s.append(node[0])
            if node[0] >= self._target_s or self._stalls(bounds_s):
                break
            counts = self.model.counts(result.values)
            broken = self.moments.add_broken(counts)
            if self._simulate(counts) <= node[0] * (1.0 + self.relative_gap / 4) and not broken:
                break
        return node

    def _stalls(self, bounds_s: list[float]) -> bool:
        """Whether the last rounds have not lifted the bound enough to matter."""
        if len(bounds_s) <= STALL_ROUNDS:
            return False
        return bounds_s[-1] < bounds_s[-1 - STALL_ROUNDS] * (1.0 + max(self.relative_gap, 1e-4) / 8)

    def _probe(self, values: Array, low: Array, high: Array) -> bool:
        """Narrows bounds in place where one side of a fraction is not faster than the target; whether any was."""
        narrowed = False
        fractional = np.abs(values - np.rint(values)) > INTEGRALITY_TOLERANCE
        for column in np.flatnonzero(fractional[: self.model.num_probed]).tolist():
            below, above = np.floor(values[column]), np.ceil(values[column])
            if high[column] > below and not self._can_win(column, above, high[column], low, high):
                high[column], narrowed = below, True
            elif low[column] < above and not self._can_win(column, low[column], below, low, high):
                low[column], narrowed = above, True
        return narrowed

    def _can_win(self, column: int, at_least: float, at_most: float, low: Array, high: Array) -> bool:
        lower, upper = low.copy(), high.copy()
        lower[column], upper[column] = at_least, at_most
        self.model.branch_on(lower, upper)
        result = self.model.solve(self.effort, integers=False)
        if result.status is SolveStatus.OPTIMAL:
            return result.bound / self.model.per_second < self._target_s
        return result.status is not SolveStatus.INFEASIBLE

    # With integrality.

    def _split_round(self) -> bool:
        """Solves with whole layers but mixed choices; whether another round may raise the bound."""
        before_s, known = self.lower_bound_s, len(self.splits)
        values = self._solve_integers(whole_choices=False)
        if values is None:
            return False
        counts = self.model.counts(values)
        self._try_nearest(counts)
        self.moments.add_broken(counts)
        self._simulate(counts)
        raised = self.lower_bound_s > before_s * (1.0 + max(self.relative_gap / 8, 1e-6))
        return raised or len(self.splits) > known

    def _integer_round(self) -> bool:
        """Solves the whole program; whether to go on."""
        values = self._solve_integers(whole_choices=True)
        if values is None:
            return False
        whole = np.rint(self.model.counts(values)).astype(np.int64)
        self.moments.add_broken(whole)
        self._simulate(whole)
        return True

    def _solve_integers(self, *, whole_choices: bool) -> Array | None:
        """Raises the bound; the solution, if there is one below the target."""
        limit_s = self._target_s
        self.model.require_whole_choices(required=whole_choices)
        self.model.limit_step(limit_s)
        result = self.model.solve(self.effort, integers=True, relative_gap=self.relative_gap / 4)
        bound_s = limit_s if result.status is SolveStatus.INFEASIBLE else result.bound / self.model.per_second
        self.lower_bound_s = max(self.lower_bound_s, min(bound_s, limit_s))
        return result.values if len(result.values) else None
