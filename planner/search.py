"""The search: outer points best-first by lower bound, the inner solver on each, and the certificate.

    shapes        every (tp x sp, cp, ep, etp, micro-batch), with the least time of one micro-batch through all layers
    points        shape x mesh x schedule x sharding x rank order, in a heap ordered by a lower bound of the step
    inner solve   layers to stages, strategy and recomputation of each layer; event-simulated, with a bound of its own

The search ends when no point left has a bound below the best plan's time less the gap asked for. The reported bound is
the least of the bounds of all points, solved, pruned or left.
"""

from __future__ import annotations

import gc
import heapq
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import count
from math import isinf

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import ClusterError
from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.runtime import RuntimeSpec, load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.costmodel.units import format_bytes
from meshwright.costmodel.value import Value
from meshwright.planner.bounds import excess_bytes, problem_bound_s
from meshwright.planner.cutting_planes import solve_point
from meshwright.planner.frontier import Frontier
from meshwright.planner.held.offload import host_optimizer_bytes
from meshwright.planner.operator_order import order_gap, ordered_configuration
from meshwright.planner.plan import Alternative, SearchRecord
from meshwright.planner.point import PointProblem, PointSolution, PointStatus
from meshwright.planner.point_problem import HOST_OPTIMIZER_FRACTION, point_problem, solved_configuration
from meshwright.planner.runners_up import describe_alternative
from meshwright.planner.shortfall import Shortfalls
from meshwright.planner.space import RULES, OuterPoint, Problem

DEFAULT_GAP = 0.008
INNER_GAP = 0.0015
POINT_EFFORT = 1_000.0
RUNNER_UP_EFFORT = 300.0
TIGHTEN_EFFORT = 8_000.0
EXPLAIN_EFFORT = 300.0
"""What solving a point may cost (`planner.effort`): in the search, for a runner-up and for the best point at its end,
and to learn by how much a point does not fit."""

SOLVES_A_FAMILY = 4
"""How many points may be solved for a runner-up."""

RUNTIME = "meshwright"
MAX_EXPLAINED = 6
GROWTH = (2, 4, 8, 16)
"""Multiples of the GPUs that are tried when nothing fits."""


class Stage(Enum):
    """How sharp the bound of a point is that has not been costed in full: of its shape, or of its best case."""

    OPENED = "opened"
    BOUNDED = "bounded"


class SearchProgress(Value, frozen=True, kw_only=True):
    """How far a search has come."""

    candidates: int
    remaining: int
    solved: int
    best_s: float | None
    lower_bound_s: float


class SearchResult(Value, frozen=True, kw_only=True):
    """The best plan, what it was proven against, and the runners-up."""

    configuration: TrainingConfiguration
    prediction: StepPrediction
    certificate: SearchRecord
    alternatives: tuple[Alternative, ...]


class Solved(Value, frozen=True, kw_only=True):
    """An outer point with its inner solution."""

    point: OuterPoint
    inner: PointProblem
    solution: PointSolution

    @property
    def was_cut_off(self) -> bool:
        """Whether the point was given up: it may do far better than what had been found until then."""
        return self.solution.status is PointStatus.CUT_OFF


def search(
    problem: Problem,
    *,
    top: int = 5,
    gap: float = DEFAULT_GAP,
    runtime: RuntimeSpec | None = None,
    progress: Callable[[SearchProgress], None] | None = None,
) -> SearchResult:
    """Find the fastest plan that fits.

    `top` is the number of runners-up; `gap` the relative distance to the lower bound at which the search may end;
    `runtime` what executes the plan (Meshwright's own executor unless given).
    Raises `InfeasibleError` with the limit that binds and what would make it fit.
    """
    with _without_garbage_collection():
        return _Search(problem, runtime or load_runtime(RUNTIME), gap, progress).run(top)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A search makes hundreds of thousands of immutable values that live in caches; walking them costs 40 % of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Search:
    """One search: the heap of open points, the best so far, and the least bound of what is closed."""

    def __init__(
        self,
        problem: Problem,
        runtime: RuntimeSpec,
        gap: float,
        progress: Callable[[SearchProgress], None] | None,
    ) -> None:
        self.problem, self.runtime, self.gap = problem, runtime, gap
        self.progress = progress
        self.limit_bytes = memory_limit_bytes(problem.cluster.gpu.usable_memory_bytes)
        if self.limit_bytes <= 0:
            usable = format_bytes(problem.cluster.gpu.usable_memory_bytes)
            raise ClusterError(problem.cluster.name, "memory", f"{usable} a GPU leave nothing beside what is set aside")
        self.shortfalls = Shortfalls(problem, self.limit_bytes)
        self.frontier = Frontier(problem, runtime, self.limit_bytes, self.shortfalls)
        self.order = count()
        self.heap: list[tuple[float, int, OuterPoint, PointProblem | Stage]] = []
        self.hopeless: list[tuple[float, int, OuterPoint, PointProblem]] = []
        self.solved: list[Solved] = []
        self.closed: dict[OuterPoint, float] = {}
        self.candidates = self.rejected = self.pruned = 0
        self.started = time.perf_counter()

    def run(self, top: int) -> SearchResult:
        """Search, then look for runners-up."""
        self._open_points()
        while self.heap and self.heap[0][0] < self._good_enough_s:
            self._advance()
        if not self.solved:
            self._explain()
            raise self.shortfalls.error(self._enough_gpus())
        families = self._families(top + 1)
        self._tighten()
        best = self._best
        configuration = ordered_configuration(self._configuration(best))
        prediction = predict(configuration)
        return SearchResult(
            configuration=configuration,
            prediction=prediction,
            certificate=self._certificate(configuration, prediction),
            alternatives=self._alternatives(best, families, top),
        )

    def _tighten(self) -> None:
        """Solve the best point again, with more effort, where its own bound is what leaves the gap open."""
        best = self._best
        bound_s = self.closed[best.point]
        if bound_s >= best.solution.step_time_s * (1.0 - max(self.gap, 1.01 * INNER_GAP)):
            return
        again = self._solve(bound_s, best.point, best.inner, cutoff_s=None, effort=TIGHTEN_EFFORT)
        if again is not None:
            slower = max(best, again, key=lambda entry: entry.solution.step_time_s)
            self.solved = [entry for entry in self.solved if entry is not slower]

    def _explain(self) -> None:
        """Solve the points that a memory bound proved infeasible by least, to learn by how much they are."""
        for _, _, point, inner in sorted(self.hopeless, key=lambda entry: entry[:2])[:MAX_EXPLAINED]:
            solution = solve_point(inner, relative_gap=self.gap, effort=EXPLAIN_EFFORT)
            self.shortfalls.note(point, solution.reason)

    def _enough_gpus(self) -> int | None:
        """The least of twice, four times, ... the GPUs on which some plan fits; None if none of them does."""
        cluster = self.problem.cluster
        for factor in GROWTH:
            num_gpus = cluster.num_gpus * factor
            if num_gpus > cluster.gpus_per_node and num_gpus % cluster.gpus_per_node:
                continue
            larger = msgspec.structs.replace(self.problem, cluster=cluster.with_gpus(num_gpus))
            if _Search(larger, self.runtime, gap=1.0, progress=None).finds_a_plan():
                return num_gpus
        return None

    def finds_a_plan(self) -> bool:
        """Whether anything fits: ends at the first plan found."""
        self._open_points()
        while self.heap and not self.solved:
            self._advance()
        return bool(self.solved)

    # The frontier.

    def _open_points(self) -> None:
        for bound_s, point in self.frontier.points():
            self.heap.append((bound_s, next(self.order), point, Stage.OPENED))
        self.rejected = self.frontier.num_rejected
        self.candidates = len(self.heap) + self.rejected
        heapq.heapify(self.heap)

    def _open_resplit(self, point: OuterPoint) -> None:
        """A point does not fit: it may with embedding and head split another way."""
        for bound_s, other in self.frontier.resplit(point):
            self.candidates += 1
            heapq.heappush(self.heap, (bound_s, next(self.order), other, Stage.OPENED))

    # Closing a point.

    @property
    def _best(self) -> Solved:
        return min(self.solved, key=lambda entry: entry.solution.step_time_s)

    @property
    def _good_enough_s(self) -> float:
        if not self.solved:
            return float("inf")
        return self._best.solution.step_time_s * (1.0 - self.gap)

    def _advance(self) -> None:
        """Take the point with the least bound: sharpen its bound, or when that is done, solve it."""
        bound_s, order, point, inner = heapq.heappop(self.heap)
        if isinstance(inner, Stage):
            self._sharpen(bound_s, order, point, inner)
        else:
            self._solve(bound_s, point, inner, cutoff_s=self._good_enough_s)
        self._report()

    def _sharpen(self, bound_s: float, order: int, point: OuterPoint, stage: Stage) -> None:
        """Cost all choices of a point, and put it back with the bound that follows from them and from memory.

        First without ordering any operators, then, if that does not bound it away, with their orders.
        """
        best_case = stage is Stage.OPENED
        inner = point_problem(self.problem, self.runtime, point, best_case=best_case)
        if inner is None:
            self.rejected += 1
            return
        sharper_s = problem_bound_s(inner, best_case=best_case)
        if isinf(sharper_s):
            self.rejected += 1
            self.hopeless.append((excess_bytes(inner), order, point, inner))
            self._open_resplit(point)
            return
        entry = Stage.BOUNDED if best_case else inner
        heapq.heappush(self.heap, (max(bound_s, sharper_s), order, point, entry))

    @property
    def _closed_bound_s(self) -> float:
        """No plan of a closed point is faster."""
        return min(self.closed.values(), default=float("inf"))

    def _solve(
        self,
        bound_s: float,
        point: OuterPoint,
        inner: PointProblem,
        cutoff_s: float | None,
        effort: float = POINT_EFFORT,
    ) -> Solved | None:
        # The first plan is a measure for the others, and seldom the best.
        gap = INNER_GAP if self.solved else max(INNER_GAP, self.gap)
        solution = solve_point(inner, cutoff_s=cutoff_s, relative_gap=gap, effort=effort)
        if solution.status is PointStatus.INFEASIBLE:
            self.rejected += 1
            self.shortfalls.note(point, solution.reason)
            self._open_resplit(point)
            return None
        self.closed[point] = max(bound_s, solution.lower_bound_s, self.closed.get(point, 0.0))
        if not solution.assignment:
            self.pruned += 1
            return None
        entry = Solved(point=point, inner=inner, solution=solution)
        if point.sharding.offload_optimizer and not self._host_holds(entry):
            self.pruned += 1
            return None
        self.solved.append(entry)
        return entry

    def _host_holds(self, entry: Solved) -> bool:
        """Whether a node of the fullest stage has room for its optimizer state, of which points know the mean."""
        room_bytes = HOST_OPTIMIZER_FRACTION * self.problem.cluster.host_memory_bytes
        return host_optimizer_bytes(self._configuration(entry)) <= room_bytes

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(
                SearchProgress(
                    candidates=self.candidates,
                    remaining=len(self.heap),
                    solved=len(self.solved),
                    best_s=self._best.solution.step_time_s if self.solved else None,
                    lower_bound_s=min(self._closed_bound_s, self.heap[0][0] if self.heap else float("inf")),
                )
            )

    # The result.

    def _certificate(self, configuration: TrainingConfiguration, prediction: StepPrediction) -> SearchRecord:
        open_bound_s = self.heap[0][0] if self.heap else float("inf")
        best_s = self._objective_s(self._best)
        lower_bound_s = min(best_s, self._closed_bound_s, open_bound_s)
        return SearchRecord(
            candidates=self.candidates,
            rejected=self.rejected,
            pruned=self.pruned + len(self.heap),
            solved=len(self.solved),
            objective_s=best_s,
            lower_bound_s=min(lower_bound_s, prediction.step_time_s),
            gap=(best_s - lower_bound_s) / best_s,
            order_gap=order_gap(configuration),
            solve_time_s=time.perf_counter() - self.started,
            space="; ".join((*RULES, self._best.solution.space)),
            solvers=(self._best.solution.solver,),
        )

    def _configuration(self, entry: Solved) -> TrainingConfiguration:
        return solved_configuration(self.problem, self.runtime, entry.point, entry.inner, entry.solution)

    def _objective_s(self, entry: Solved) -> float:
        """The step with list-scheduled operators, in seconds.

        Solves let all layers of a kind meet under DualPipe that can, whatever they recompute; some then do not.
        """
        if entry.point.schedule is not ScheduleKind.DUALPIPE_V:
            return entry.solution.step_time_s
        return max(entry.solution.step_time_s, predict(self._configuration(entry)).step_time_s)

    def _families(self, number: int) -> list[Solved]:
        """The best plan of each family, fastest first; solves more points until no other family can be among `number`.

        At most so many solves a family. A point solved here may turn out the best of all: the search ended within its
        gap, not at the optimum.
        """
        self._reopen_cut_off()
        left = SOLVES_A_FAMILY * number
        while self.heap and left and self.heap[0][0] < self._slowest_of(number):
            bound_s, order, point, inner = heapq.heappop(self.heap)
            known = any(_family(entry.point) == _family(point) and not entry.was_cut_off for entry in self.solved)
            if known or isinstance(inner, Stage):
                self._reopen(bound_s, order, point, inner, known=known)
                continue
            self._solve(bound_s, point, inner, cutoff_s=self._slowest_of(number), effort=RUNNER_UP_EFFORT)
            left -= 1
        return self._fastest_of_families()

    def _fastest_of_families(self) -> list[Solved]:
        fastest: dict[object, Solved] = {}
        for entry in sorted(self.solved, key=lambda entry: entry.solution.step_time_s):
            fastest.setdefault(_family(entry.point), entry)
        return list(fastest.values())

    def _slowest_of(self, number: int) -> float:
        """The step of the slowest of so many families; infinite while there are fewer."""
        found = self._fastest_of_families()
        return found[number - 1].solution.step_time_s if len(found) >= number else float("inf")

    def _reopen_cut_off(self) -> None:
        """Where a solve was cut off, all that is known is that its point is not the best."""
        best, found = self._best, self.solved
        self.solved = [entry for entry in found if entry is best or not entry.was_cut_off]
        for entry in found:
            if entry is not best and entry.was_cut_off:
                heapq.heappush(self.heap, (self.closed[entry.point], next(self.order), entry.point, entry.inner))

    def _reopen(
        self, bound_s: float, order: int, point: OuterPoint, inner: PointProblem | Stage, *, known: bool
    ) -> None:
        """A point of a family that has its plan is done with, at its bound; another gets its sharper bound first."""
        if known:
            self.closed[point] = bound_s
            self.pruned += 1
        elif isinstance(inner, Stage):
            self._sharpen(bound_s, order, point, inner)

    def _alternatives(self, best: Solved, families: list[Solved], top: int) -> tuple[Alternative, ...]:
        """The runners-up beside the best plan."""
        reference = self._configuration(best)
        others = [entry for entry in families if _family(entry.point) != _family(best.point)][:top]
        return tuple(describe_alternative(reference, self._configuration(entry)) for entry in others)


def _family(point: OuterPoint) -> object:
    """Plans that differ in more than details: runners-up come from different families."""
    mesh = point.mesh
    return mesh.pp, mesh.dp, point.shape.group, mesh.cp, mesh.ep, mesh.etp, point.schedule
