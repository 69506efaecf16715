"""The inner solve against complete enumeration, on small random problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, combinations_with_replacement, product

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshwright.costmodel.simulate import OverlapPolicy, ScheduleKind
from meshwright.planner.alike_chunks import chunks_agree
from meshwright.planner.choice import Choice, EndCost, pareto_choices
from meshwright.planner.cutting_planes import solve_point
from meshwright.planner.incumbents import balanced_split, fitting_mix
from meshwright.planner.point import MemoryShortfall, PointProblem, PointStatus
from meshwright.planner.stage_totals import Counts, peak_memory_bytes, step_time_s, tables

EXACT = 1e-6
MAX_ASSIGNMENTS = 4000
SCHEDULES = (
    (ScheduleKind.ONE_F_ONE_B, 1, 1, 3),
    (ScheduleKind.ONE_F_ONE_B, 2, 1, 3),
    (ScheduleKind.ONE_F_ONE_B, 3, 1, 4),
    (ScheduleKind.GPIPE, 2, 1, 2),
    (ScheduleKind.ZB_H1, 2, 1, 3),
    (ScheduleKind.INTERLEAVED, 2, 2, 4),
    (ScheduleKind.ZB_V, 2, 2, 4),
    (ScheduleKind.DUALPIPE_V, 2, 2, 4),
)


def splits(problem: PointProblem) -> Iterator[tuple[int, ...]]:
    """Every number of layers per virtual stage."""
    layers, stages = len(problem.layer_types), problem.num_virtual_stages
    for cuts in combinations_with_replacement(range(layers + 1), stages - 1):
        split = tuple(b - a for a, b in zip((0, *cuts), (*cuts, layers), strict=True))
        if all(count >= problem.fewest_layers(stage) for stage, count in enumerate(split)):
            yield split


def assignments(problem: PointProblem, split: tuple[int, ...]) -> Iterator[Counts]:
    """Every mix of choices for a split; which layer of a type uses which choice makes no difference."""
    table, start, groups = tables(problem), 0, []
    for stage, count in enumerate(split):
        for kind, number in sorted(Counter(problem.layer_types[start : start + count]).items()):
            items = np.flatnonzero(table.item_types == kind).tolist()
            groups.append([(stage, mix) for mix in combinations_with_replacement(items, number)])
        start += count
    for chosen in product(*groups):
        counts = np.zeros((problem.num_virtual_stages, len(table.items)), dtype=np.int64)
        for stage, mix in chosen:
            for item in mix:
                counts[stage, item] += 1
        yield counts


def space(problem: PointProblem) -> list[Counts]:
    """Every assignment, whether it fits or not."""
    every = (counts for split in splits(problem) for counts in assignments(problem, split))
    found: list[Counts] = []
    for counts in every:
        if len(found) > MAX_ASSIGNMENTS:
            assume(False)
        if chunks_agree(problem, counts):
            found.append(counts)
    return found


def optimum(problem: PointProblem) -> tuple[float, float]:
    """(least step time of what fits, infinite if nothing does; least peak memory of all) by trying everything."""
    best_s, leanest = float("inf"), float("inf")
    for counts in space(problem):
        peak = float(peak_memory_bytes(problem, counts).max())
        leanest = min(leanest, peak)
        if peak <= problem.memory_limit_bytes:
            best_s = min(best_s, step_time_s(problem, counts))
    return best_s, leanest


seconds = st.integers(1, 40).map(lambda n: n / 1000)
some_seconds = st.integers(0, 20).map(lambda n: n / 1000)
some_bytes = st.integers(0, 30).map(lambda n: n * 1e8)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    forward_s, dgrad_s, wgrad_s = draw(seconds), draw(seconds), draw(seconds)
    backward_s = max(dgrad_s, wgrad_s) + draw(some_seconds)
    return Choice(
        key=draw(st.integers(0, 10**6)),
        forward_s=forward_s,
        backward_s=backward_s,
        dgrad_s=dgrad_s,
        wgrad_s=wgrad_s,
        param_gather_s=draw(some_seconds),
        grad_reduce_s=draw(some_seconds),
        gather_slowdown_s=draw(some_seconds),
        reduce_slowdown_s=draw(some_seconds),
        optimizer_s=draw(some_seconds),
        static_bytes=draw(some_bytes),
        kept_bytes=draw(some_bytes),
        transient_bytes=draw(some_bytes),
        overlap_saving_s=forward_s * draw(st.sampled_from((0.0, 0.3, 1.0))),
    )


@st.composite
def ends(draw: st.DrawFn) -> EndCost:
    forward_s, dgrad_s, wgrad_s = draw(some_seconds), draw(some_seconds), draw(some_seconds)
    return EndCost(
        forward_s=forward_s,
        backward_s=dgrad_s + wgrad_s,
        dgrad_s=dgrad_s,
        wgrad_s=wgrad_s,
        grad_reduce_s=draw(some_seconds),
        optimizer_s=draw(some_seconds),
        static_bytes=draw(some_bytes),
        kept_bytes=draw(some_bytes),
        transient_bytes=draw(some_bytes),
    )


@st.composite
def problems(draw: st.DrawFn) -> PointProblem:
    kind, num_stages, virtual_stages, micro_batches = draw(st.sampled_from(SCHEDULES))
    stages = num_stages * virtual_stages
    layers = draw(st.integers(stages, 5 if stages < 4 else 6))
    types = draw(st.sampled_from(((0,) * layers, (0,) + (1,) * (layers - 1), tuple(i % 2 for i in range(layers)))))
    most = 3 if len(set(types)) == 1 else 2
    catalogue = tuple(
        pareto_choices(tuple(draw(st.lists(choices(), min_size=1, max_size=most))), kind) for _ in range(max(types) + 1)
    )
    boolean = st.booleans()
    problem = PointProblem(
        kind=kind,
        num_stages=num_stages,
        num_micro_batches=micro_batches,
        virtual_stages=virtual_stages,
        layer_types=types,
        choices=catalogue,
        first=draw(st.none() | ends()),
        last=draw(st.none() | ends()),
        hops_s=tuple(draw(st.lists(some_seconds, min_size=stages - 1, max_size=stages - 1))),
        barrier_s=draw(some_seconds),
        overlap=OverlapPolicy(point_to_point=draw(boolean), grad_reduce=draw(boolean), param_gather=draw(boolean)),
        memory_limit_bytes=1e15,
        alike_chunks=draw(boolean),
    )
    if draw(boolean):
        split = draw(st.sampled_from(list(splits(problem))))
        problem = msgspec.structs.replace(problem, boundaries=(0, *accumulate(split)))
    return msgspec.structs.replace(problem, memory_limit_bytes=draw(limits(problem)))


@st.composite
def limits(draw: st.DrawFn, problem: PointProblem) -> float:
    """A limit that some assignments keep and others break, most of the time."""
    peaks = sorted({float(peak_memory_bytes(problem, counts).max()) for counts in space(problem)})
    assume(peaks)
    return 1.0 + draw(st.sampled_from(peaks)) * draw(st.sampled_from((1.0, 1.0, 1.0, 0.9)))


@settings(max_examples=60)
@given(problems())
def test_finds_the_optimum_of_everything_enumerated(problem: PointProblem) -> None:
    best_s, leanest = optimum(problem)
    solution = solve_point(problem, relative_gap=0.0)
    if best_s == float("inf"):
        assert solution.status is PointStatus.INFEASIBLE
        assert isinstance(solution.reason, MemoryShortfall)
        assert solution.reason.needed_bytes == pytest.approx(leanest, rel=EXACT)
        assert solution.reason.lower_bound_bytes <= solution.reason.over_bytes * (1 + EXACT) + 1e3
        return
    assert solution.status is PointStatus.OPTIMAL
    assert solution.step_time_s == pytest.approx(best_s, rel=EXACT)
    assert solution.lower_bound_s == pytest.approx(best_s, rel=EXACT)
    assert max(solution.peak_memory_bytes) <= problem.memory_limit_bytes * (1 + 1e-8)


@settings(max_examples=30)
@given(problems(), st.sampled_from((0.0, 0.001, 0.02)))
def test_bounds_lie_below_the_optimum_and_heuristics_above(problem: PointProblem, gap: float) -> None:
    best_s, _ = optimum(problem)
    assume(best_s < float("inf"))
    solution = solve_point(problem, relative_gap=gap)
    assert solution.lower_bound_s >= solution.step_time_s * (1 - gap - EXACT)
    assert solution.lower_bound_s <= best_s * (1 + EXACT)
    assert best_s <= solution.step_time_s * (1 + EXACT)
    first = fitting_mix(problem, balanced_split(problem))
    assert first is None or step_time_s(problem, first) >= best_s * (1 - EXACT)


@settings(max_examples=20)
@given(problems())
def test_a_cutoff_never_hides_something_faster(problem: PointProblem) -> None:
    best_s, _ = optimum(problem)
    assume(best_s < float("inf"))
    below = solve_point(problem, cutoff_s=best_s * 0.99, relative_gap=0.0)
    assert below.status is PointStatus.CUT_OFF
    assert below.lower_bound_s >= best_s * 0.99 * (1 - EXACT)
    above = solve_point(problem, cutoff_s=best_s * 1.01, relative_gap=0.0)
    assert above.status is PointStatus.OPTIMAL
    assert above.step_time_s == pytest.approx(best_s, rel=EXACT)


@settings(max_examples=20)
@given(problems(), st.floats(1.0, 2.0))
def test_more_memory_is_never_slower(problem: PointProblem, factor: float) -> None:
    more = msgspec.structs.replace(problem, memory_limit_bytes=problem.memory_limit_bytes * factor)
    less_s, more_s = (solve_point(p, relative_gap=0.0).step_time_s for p in (problem, more))
    assert more_s <= less_s * (1 + EXACT)


@settings(max_examples=20)
@given(problems(), choices())
def test_one_more_choice_is_never_slower(problem: PointProblem, choice: Choice) -> None:
    wider = msgspec.structs.replace(problem, choices=((*problem.choices[0], choice), *problem.choices[1:]))
    few_s, more_s = (solve_point(p, relative_gap=0.0).step_time_s for p in (problem, wider))
    assert more_s <= few_s * (1 + EXACT)


@settings(max_examples=20)
@given(problems(), st.lists(choices(), min_size=1, max_size=3))
def test_dominated_choices_change_nothing(problem: PointProblem, extra: list[Choice]) -> None:
    every = (*problem.choices[0], *extra)
    few = msgspec.structs.replace(problem, choices=(pareto_choices(every, problem.kind), *problem.choices[1:]))
    wide = msgspec.structs.replace(problem, choices=(every, *problem.choices[1:]))
    few_s, wide_s = (solve_point(p, relative_gap=0.0).step_time_s for p in (few, wide))
    assert few_s == wide_s == float("inf") or few_s == pytest.approx(wide_s, rel=EXACT)


def test_a_program_that_highs_gives_up_with_an_error_is_solved() -> None:
    stuck = PointProblem(
        kind=ScheduleKind.ZB_V,
        num_stages=2,
        num_micro_batches=4,
        virtual_stages=2,
        layer_types=(0, 1, 0, 1, 0, 1),
        choices=(
            (
                Choice(
                    key=78,
                    forward_s=0.007,
                    backward_s=0.057999999999999996,
                    dgrad_s=0.039,
                    wgrad_s=0.006,
                    param_gather_s=0.001,
                    grad_reduce_s=0.009,
                    optimizer_s=0.013,
                    static_bytes=2800e6,
                    kept_bytes=300e6,
                    transient_bytes=2500e6,
                    overlap_saving_s=0.0,
                ),
                Choice(
                    key=2163,
                    forward_s=0.009,
                    backward_s=0.032,
                    dgrad_s=0.032,
                    wgrad_s=0.005,
                    param_gather_s=0.018,
                    grad_reduce_s=0.011,
                    optimizer_s=0.0,
                    static_bytes=600e6,
                    kept_bytes=0.0,
                    transient_bytes=3000e6,
                    overlap_saving_s=0.0,
                ),
            ),
            (
                Choice(
                    key=28672,
                    forward_s=0.003,
                    backward_s=0.028,
                    dgrad_s=0.028,
                    wgrad_s=0.017,
                    param_gather_s=0.01,
                    grad_reduce_s=0.0,
                    optimizer_s=0.006,
                    static_bytes=400e6,
                    kept_bytes=2200e6,
                    transient_bytes=0.0,
                    overlap_saving_s=0.0,
                ),
                Choice(
                    key=250935,
                    forward_s=0.005,
                    backward_s=0.045,
                    dgrad_s=0.013,
                    wgrad_s=0.025,
                    param_gather_s=0.013,
                    grad_reduce_s=0.011,
                    optimizer_s=0.016,
                    static_bytes=700e6,
                    kept_bytes=1400e6,
                    transient_bytes=1900e6,
                    overlap_saving_s=0.0,
                ),
            ),
        ),
        first=EndCost(
            forward_s=0.016,
            backward_s=0.020999999999999998,
            dgrad_s=0.019,
            wgrad_s=0.002,
            param_gather_s=0.0,
            grad_reduce_s=0.019,
            optimizer_s=0.017,
            static_bytes=2400e6,
            kept_bytes=300e6,
            transient_bytes=0.0,
            overlap_saving_s=0.0,
        ),
        hops_s=(0.011, 0.0, 0.006),
        barrier_s=0.013,
        overlap=OverlapPolicy(point_to_point=False, grad_reduce=True, param_gather=True),
        memory_limit_bytes=18700000001.0 * 1.15,
        min_layers=1,
        alike_chunks=False,
    )
    assert solve_point(stuck, relative_gap=0.0).status is PointStatus.OPTIMAL
