"""Solves one outer point: an integer program under the longest paths found so far, and the simulation that finds them.

    1. a first assignment by rule; its longest path is the first row
    2. the program without integrality: solve, simulate the fractional stages, add their longest path, until it agrees
    3. the program: solve, simulate, add the longest path, until the best simulated step is within the gap of the bound

Every row holds for every assignment, so HiGHS's dual bound is a bound of the step time at any moment; and every new
path is the step time exactly at the assignment it came from, so none is proposed twice below its simulated time.
"""

from __future__ import annotations

import time

import numpy as np

from meshwright.costmodel.simulate import in_flight, lower_bound_paths
from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.incumbents import balanced_split, fitting_mix
from meshwright.planner.label_setting import least_seconds, micro_batch_s
from meshwright.planner.milp import PointModel
from meshwright.planner.point import (
    ChoiceCount,
    MemoryShortfall,
    PointProblem,
    PointSolution,
    PointStatus,
    TooFewLayers,
    needed_layers,
)
from meshwright.planner.pulp_solver import SolveStatus, solver_text
from meshwright.planner.stage_totals import Counts, longest_path, peak_memory_bytes, step_time_s, tables

MEMORY_TOLERANCE = 1e-9
"""Share of the limit by which a peak may exceed it: the solver's precision."""

MAX_ROOT_ROUNDS = 100
MAX_NODE_ROUNDS = 4
INTEGRALITY_TOLERANCE = 1e-6

PRECISION = 1e-8
"""The gap that counts as none: what HiGHS's tolerance is relative to `milp.TIME_SCALE`."""


def solve_point(
    problem: PointProblem,
    *,
    cutoff_s: float | None = None,
    relative_gap: float = 1e-3,
    time_limit_s: float = 30.0,
) -> PointSolution:
    """The fastest assignment that fits, proven to within `relative_gap`.

    With a cutoff, ends as soon as nothing is faster than the cutoff (less the gap). Deterministic unless the time limit
    ends it.
    """
    needed = needed_layers(problem)
    if len(problem.layer_types) < needed:
        reason = TooFewLayers(num_layers=len(problem.layer_types), needed_layers=needed)
        return PointSolution(status=PointStatus.INFEASIBLE, reason=reason)
    return _Solve(problem, float("inf") if cutoff_s is None else cutoff_s, relative_gap, time_limit_s).run()


def space_text(problem: PointProblem) -> str:
    """What the lower bound of a solve ranges over."""
    kinds = sorted(set(problem.layer_types))
    choices = " + ".join(str(len(problem.choices[kind])) for kind in kinds)
    return (
        f"every split of {len(problem.layer_types)} layers over {problem.num_virtual_stages} virtual stages of at least"
        f" {problem.min_layers} layer(s), every mix of {choices} choices by layer type on each"
    )


class _Solve:
    def __init__(self, problem: PointProblem, cutoff_s: float, relative_gap: float, time_limit_s: float) -> None:
        self.problem, self.cutoff_s, self.relative_gap = problem, cutoff_s, relative_gap
        self.deadline = time.perf_counter() + time_limit_s
        self.best: Counts | None = None
        self.best_s = float("inf")
        self.lower_bound_s = 0.0
        self.num_cuts = 0
        self.splits: set[tuple[int, ...]] = set()
        self.moments: set[tuple[int, tuple[int, ...]]] = set()

    # The answer.

    def run(self) -> PointSolution:
        """Solve."""
        first = fitting_mix(self.problem, balanced_split(self.problem))
        self.model = PointModel(self.problem, self._typical_step_s(first))
        self._add_first_rows(first)
        self._relax()
        if self.best is None and not self._is_done:
            shortfall = self._shortfall()
            if shortfall is not None:
                return self._infeasible(shortfall)
        while not self._is_done and self._split_round():
            pass
        while not self._is_done and self._integer_round():
            pass
        return self._solution()

    @property
    def _target_s(self) -> float:
        """Only steps faster than this are of interest."""
        return min(self.cutoff_s, self.best_s) * (1.0 - max(self.relative_gap, PRECISION))

    @property
    def _is_done(self) -> bool:
        return self.lower_bound_s >= self._target_s or self._left_s <= 0

    @property
    def _left_s(self) -> float:
        return self.deadline - time.perf_counter()

    def _infeasible(self, reason: MemoryShortfall) -> PointSolution:
        return PointSolution(
            status=PointStatus.INFEASIBLE, reason=reason, solver=solver_text(), space=space_text(self.problem)
        )

    def _solution(self) -> PointSolution:
        found = self.best_s < float("inf")
        proven = self.lower_bound_s >= self.best_s * (1.0 - max(self.relative_gap, PRECISION))
        status = PointStatus.OPTIMAL if proven else PointStatus.BOUNDED
        if not found or (self.best_s > self.cutoff_s and not proven):
            status = PointStatus.CUT_OFF
        return PointSolution(
            status=status,
            layers_per_virtual_stage=tuple(self.best.sum(axis=1).tolist()) if self.best is not None else (),
            assignment=_assignment(self.problem, self.best) if self.best is not None else (),
            step_time_s=self.best_s,
            lower_bound_s=min(self.lower_bound_s, self.best_s),
            peak_memory_bytes=(
                tuple(peak_memory_bytes(self.problem, self.best).tolist()) if self.best is not None else ()
            ),
            num_cuts=self.num_cuts,
            solver=solver_text(),
            space=space_text(self.problem),
        )

    # Rows.

    def _typical_step_s(self, first: Counts | None) -> float:
        if first is not None:
            return step_time_s(self.problem, first)
        work_s = micro_batch_s(self.problem, tables(self.problem).costs).mean() * len(self.problem.layer_types)
        return float(work_s * self.problem.num_micro_batches / self.problem.num_stages) or 1.0

    def _add_first_rows(self, first: Counts | None) -> None:
        for device, moments in enumerate(in_flight(self.problem.schedule)):
            self._add_moment(device, max(moments, key=sum))
        problem = self.problem
        for device in range(problem.num_stages):
            for kind in set(problem.layer_types):
                curve = least_seconds(problem, device, kind, self._most_layers(device, kind))
                self.model.add_curve(device, kind, curve)
        for path in lower_bound_paths(
            problem.kind, problem.num_stages, problem.num_micro_batches, problem.virtual_stages, problem.overlap
        ):
            self.model.add_path(path)
        if first is not None:
            self._simulate(first)

    def _most_layers(self, device: int, kind: int) -> int:
        return self.problem.layer_types.count(kind)

    def _add_moment(self, device: int, held: tuple[int, ...]) -> bool:
        if (device, held) in self.moments:
            return False
        self.moments.add((device, held))
        self.model.add_moment(device, held)
        return True

    def _add_broken_moments(self, counts: Array, over_bytes: float = 0.0) -> bool:
        """Adds the worst moment of every device whose memory the assignment exceeds; whether there was a new one."""
        limit = self.problem.memory_limit_bytes * (1.0 + MEMORY_TOLERANCE) + over_bytes
        peaks = peak_memory_bytes(self.problem, counts)
        added = [
            self._add_moment(int(device), self._worst_moment(int(device), counts))
            for device in np.flatnonzero(peaks > limit)
        ]
        return any(added)

    def _worst_moment(self, device: int, counts: Array) -> tuple[int, ...]:
        table = tables(self.problem)
        kept = (counts @ table.column("kept_bytes") + table.end("kept_bytes"))[table.stage_at[device]]
        moments = in_flight(self.problem.schedule)[device]
        return moments[int((np.array(moments) @ kept).argmax())]

    def _simulate(self, counts: Array) -> float:
        """Simulates an assignment, adds its longest path, and keeps it if it is whole, fits and is the best so far."""
        simulated_s, path = longest_path(self.problem, counts)
        self.model.add_path(path)
        self.num_cuts += 1
        if counts.dtype == np.int64:
            self.model.sharpen_shares(path, counts, simulated_s * max(self.relative_gap / 4, PRECISION))
            limit = self.problem.memory_limit_bytes * (1.0 + MEMORY_TOLERANCE)
            if simulated_s < self.best_s and peak_memory_bytes(self.problem, counts).max() <= limit:
                self.best, self.best_s = counts, simulated_s
        return simulated_s

    # Without integrality.

    def _relax(self) -> None:
        """Bounds the step without integrality, and narrows how many layers each stage can have below the target."""
        low, high = np.zeros_like(self.model.branching_upper), self.model.branching_upper.copy()
        node = self._relaxed_rounds(MAX_ROOT_ROUNDS)
        while node is not None:
            self.lower_bound_s = max(self.lower_bound_s, min(node[0], self._target_s))
            if self._is_done or not len(node[1]):
                return
            self._round(node[1])
            narrowed = self._probe(node[1][self.model.branching], low, high)
            self.model.branch_on(low, high)
            if not narrowed:
                return
            node = self._relaxed_rounds(MAX_NODE_ROUNDS)
        self.lower_bound_s = max(self.lower_bound_s, self._target_s)

    def _probe(self, values: Array, low: Array, high: Array) -> bool:
        """Narrows bounds in place where one side of a fractional value is not faster than the target; whether any was."""
        narrowed = False
        fractional = np.abs(values - np.rint(values)) > INTEGRALITY_TOLERANCE
        for column in np.flatnonzero(fractional[: self.model.num_layer_columns]).tolist():
            below, above = np.floor(values[column]), np.ceil(values[column])
            if low[column] <= below and not self._can_win(column, above, high[column], low, high):
                high[column], narrowed = below, True
            elif high[column] >= above and not self._can_win(column, low[column], below, low, high):
                low[column], narrowed = above, True
        return narrowed

    def _can_win(self, column: int, at_least: float, at_most: float, low: Array, high: Array) -> bool:
        lower, upper = low.copy(), high.copy()
        lower[column], upper[column] = at_least, at_most
        self.model.branch_on(lower, upper)
        result = self.model.solve(integers=False, relative_gap=0.0, time_limit_s=self._left_s)
        if result.status is SolveStatus.OPTIMAL:
            return result.bound / self.model.per_second < self._target_s
        return result.status is not SolveStatus.INFEASIBLE

    def _relaxed_rounds(self, max_rounds: int) -> tuple[float, Array] | None:
        """Solves without integrality, adding longest paths; (bound, solution), None where nothing is left."""
        node = None
        for _ in range(max_rounds):
            result = self.model.solve(integers=False, relative_gap=0.0, time_limit_s=self._left_s)
            if result.status is SolveStatus.INFEASIBLE:
                return None
            if result.status is not SolveStatus.OPTIMAL:
                break
            bound_s = result.bound / self.model.per_second
            node = (bound_s, result.values)
            counts = self.model.counts(result.values)
            broken = self._add_broken_moments(counts)
            if bound_s >= self._target_s:
                break
            if self._simulate(counts) <= bound_s * (1 + self.relative_gap / 4) and not broken:
                break
        return node or (self.lower_bound_s, np.empty(0))

    def _round(self, values: Array) -> None:
        """Tries the whole split nearest to a mixed one."""
        layers = self.model.counts(values).sum(axis=1)
        boundaries = np.rint(np.cumsum(layers)).astype(np.int64)
        split = tuple(np.diff(boundaries, prepend=0).tolist())
        if split in self.splits or any(n < self.problem.fewest_layers(stage) for stage, n in enumerate(split)):
            return
        self.splits.add(split)
        counts = fitting_mix(self.problem, split)
        if counts is not None:
            self._simulate(counts)

    # With integrality.

    def _split_round(self) -> bool:
        """Solves the program with whole layers but mixed choices, and gives its split whole ones; whether to go on."""
        values = self._solve_integers(whole_choices=False)
        if values is None:
            return False
        counts = self.model.counts(values)
        known = len(self.splits)
        self._round(values)
        broken = self._add_broken_moments(counts)
        mixed_s = self._simulate(counts)
        return broken or len(self.splits) > known or mixed_s > self.lower_bound_s * (1.0 + self.relative_gap / 4)

    def _integer_round(self) -> bool:
        """Solves the program; whether to go on."""
        values = self._solve_integers(whole_choices=True)
        if values is None:
            return False
        whole = np.rint(self.model.counts(values)).astype(np.int64)
        self._add_broken_moments(whole)
        self._simulate(whole)
        return True

    def _solve_integers(self, *, whole_choices: bool) -> Array | None:
        """Raises the bound; the solution, if there is one below the target."""
        limit_s = self._target_s
        self.model.require_whole_choices(required=whole_choices)
        self.model.limit_step(limit_s)
        gap = self.relative_gap / 4
        result = self.model.solve(integers=True, relative_gap=gap, time_limit_s=self._left_s)
        bound_s = limit_s if result.status is SolveStatus.INFEASIBLE else result.bound / self.model.per_second
        self.lower_bound_s = max(self.lower_bound_s, min(bound_s, limit_s))
        return result.values if len(result.values) else None

    def _shortfall(self) -> MemoryShortfall | None:
        """The least excess over the memory limit; None where something fits, which then is the first solution."""
        self.model.limit_step(float("inf"))
        while True:
            result = self.model.solve_shortfall(self._left_s)
            if not len(result.values):
                return None
            counts = np.rint(self.model.counts(result.values)).astype(np.int64)
            over_bytes = result.objective / self.model.per_byte
            if not self._add_broken_moments(counts, over_bytes):
                break
        peaks = peak_memory_bytes(self.problem, counts)
        if peaks.max() <= self.problem.memory_limit_bytes * (1.0 + MEMORY_TOLERANCE):
            self._simulate(counts)
            return None
        return MemoryShortfall(
            device=int(peaks.argmax()),
            needed_bytes=float(peaks.max()),
            limit_bytes=self.problem.memory_limit_bytes,
            lower_bound_bytes=max(0.0, result.bound / self.model.per_byte),
        )


def _assignment(problem: PointProblem, counts: Counts) -> tuple[tuple[ChoiceCount, ...], ...]:
    items = tables(problem).items
    return tuple(
        tuple(
            ChoiceCount(layer_type=kind, choice=choice, count=int(count))
            for (kind, choice), count in zip(items, row, strict=True)
            if count
        )
        for row in counts
    )
