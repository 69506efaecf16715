"""The order of operators against every order there is, on small made-up passes, and laws on passes of real layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.grouping import Grouping, grouping_of, unit_times_s
from meshwright.costmodel.order.pass_problem import COMPUTE, PassProblem, pass_problem
from meshwright.costmodel.order.run_order import Run, replay
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    Collective,
    CollectiveWork,
    CopyWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Operator,
    Pass,
    Work,
)
from meshwright.planner.operator_order import solve_pass
from meshwright.planner.operator_order.fused_choices import fused_choices

EXACT = 1e-9
ENOUGH_NODES = 1_000_000

# Made-up passes.

NODE, NODES = Group(size=8, ranks_per_node=8), Group(size=16, ranks_per_node=8)
ATTENTION = AttentionWork(
    batch=1, num_heads=1, num_kv_heads=1, head_dim=1, value_head_dim=1, query_len=1, key_len=1, pairs=1.0
)
COMPUTATIONS: tuple[Work, ...] = (
    GemmWork(m=1, n=1, k=1),
    GroupedGemmWork(num_groups=1, rows=1.0, n=1, k=1),
    ATTENTION,
    MemoryWork(kernel=MemoryKernel.PERMUTE, read_bytes=1.0, write_bytes=1.0),
)
COMMUNICATIONS = (
    (Axis.SEQUENCE, Collective.ALL_TO_ALL, NODE),
    (Axis.TENSOR, Collective.ALL_GATHER, NODE),
    (Axis.TENSOR, Collective.REDUCE_SCATTER, NODE),
    (Axis.EXPERT, Collective.ALL_TO_ALL, NODES),
    (Axis.EXPERT, Collective.ALL_GATHER, NODE),
    (Axis.CONTEXT, Collective.SEND_RECV, NODES),
)
INTERFERENCES = (
    Interference(
        collective_sms=0,
        compute_slowdown=1.0,
        communication_slowdown=1.0,
        network_compute_slowdown=1.0,
        network_communication_slowdown=1.0,
    ),
    Interference(
        collective_sms=20,
        compute_slowdown=1.25,
        communication_slowdown=1.1,
        network_compute_slowdown=1.05,
        network_communication_slowdown=1.0,
    ),
    Interference(
        collective_sms=60,
        compute_slowdown=1.6,
        communication_slowdown=1.5,
        network_compute_slowdown=1.3,
        network_communication_slowdown=1.2,
    ),
)
LEVELS = (OverlapLevel.NONE, OverlapLevel.INTER_OPERATOR, OverlapLevel.FUSED, OverlapLevel.FUSED)

thousandths = st.integers(1, 40).map(lambda n: n / 1000)


@st.composite
def operators(draw: st.DrawFn, index: int) -> Operator:
    """Computation or communication that reads one or two of what the operators before it wrote."""
    work, axis, phase = draw(st.sampled_from(COMPUTATIONS)), None, draw(st.sampled_from((Pass.FORWARD, Pass.WGRAD)))
    if draw(st.integers(0, 9)) < 5:
        axis, collective, group = draw(st.sampled_from(COMMUNICATIONS))
        work, phase = CollectiveWork(collective=collective, num_bytes=1.0, group=group), Pass.FORWARD
    elif draw(st.integers(0, 9)) == 0:
        work, phase = CopyWork(num_bytes=1.0), Pass.FORWARD
    most = 1 if axis is not None else 2
    near = st.just(index - 1)
    reads = draw(st.lists(near | near | st.integers(-1, index - 1), min_size=1, max_size=most, unique=True))
    return Operator(
        name=f"{index}",
        module="made-up",
        phase=phase,
        work=work,
        reads=tuple(f"t{source}" for source in reads),
        writes=(f"t{index}",),
        axis=axis,
    )


@st.composite
def problems(
    draw: st.DrawFn,
    most: int = 7,
    interferences: Sequence[Interference] = INTERFERENCES,
    levels: Sequence[OverlapLevel] = LEVELS,
) -> PassProblem:
    """A pass of up to `most` operators."""
    made = tuple(draw(operators(index)) for index in range(draw(st.integers(2, most))))
    times_s = {op.name: draw(thousandths) for op in made}
    overlap = LayerOverlap(
        tensor=draw(st.sampled_from(levels)),
        sequence=draw(st.sampled_from(levels)),
        context=draw(st.sampled_from(levels)),
        expert=draw(st.sampled_from(levels)),
        fused_share=draw(st.sampled_from((0.8, 1.0, 0.3))),
    )
    return pass_problem(made, times_s, overlap, draw(st.sampled_from(interferences)))


def fused_sets(pairs: tuple[FusedPair, ...]) -> Iterator[tuple[FusedPair, ...]]:
    """Every set of pairs that share no operator."""
    for bits in range(1 << len(pairs)):
        chosen = tuple(pair for place, pair in enumerate(pairs) if bits >> place & 1)
        members = list(chain.from_iterable(pair.members for pair in chosen))
        if len(set(members)) == len(members):
            yield chosen


def sequences(grouping: Grouping) -> Iterator[tuple[int, ...]]:
    """Every topological order of the launches, one for each set of orders of the streams."""
    seen = set()
    for sequence in _topological(grouping, (), frozenset()):
        key = tuple(tuple(number for number in sequence if _is_on(grouping, number, stream)) for stream in range(4))
        if key not in seen:
            seen.add(key)
            yield sequence


def _is_on(grouping: Grouping, number: int, stream: int) -> bool:
    return grouping.on_compute[number] if stream == COMPUTE else grouping.link[number] == stream


def _topological(grouping: Grouping, done: tuple[int, ...], launched: frozenset[int]) -> Iterator[tuple[int, ...]]:
    if len(done) == len(grouping.groups):
        yield done
    for number in range(len(grouping.groups)):
        if number not in launched and launched.issuperset(grouping.before[number]):
            yield from _topological(grouping, (*done, number), launched | {number})


def every_run(problem: PassProblem) -> Iterator[Run]:
    """The pass in every order, with every choice of fused kernels."""
    for fused in fused_sets(problem.pairs):
        grouping = grouping_of(problem, fused)
        for sequence in sequences(grouping):
            yield replay(problem, grouping, sequence)


def simulated_s(problem: PassProblem, grouping: Grouping, sequence: tuple[int, ...]) -> float:
    """The same as `replay`, written as plainly as can be."""
    times_s = unit_times_s(problem, grouping)
    left_s = dict(enumerate(times_s))
    lines = {stream: [n for n in sequence if _is_on(grouping, n, stream)] for stream in range(4)}
    now_s = 0.0
    while left_s:
        running = [
            number
            for number in left_s
            if not any(source in left_s for source in grouping.before[number])
            and all(line[0] == number for line in lines.values() if number in line)
        ]
        assert running
        rates = {number: _rate(problem, grouping, number, running) for number in running}
        step_s = min(left_s[number] / rates[number] for number in running)
        now_s += step_s
        for number in running:
            left_s[number] -= step_s * rates[number]
            if left_s[number] <= 1e-13:
                del left_s[number]
                for line in lines.values():
                    if number in line:
                        line.remove(number)
    return now_s


def _rate(problem: PassProblem, grouping: Grouping, number: int, running: list[int]) -> float:
    """Work done a second."""
    beside = [other for other in running if other != number]
    if grouping.on_compute[number]:
        losses = sum(problem.loss[grouping.link[other]] for other in beside)
        return 1.0 - losses if grouping.computes[number] else 1.0
    slows = any(grouping.on_compute[other] and grouping.computes[other] for other in beside)
    return 1.0 / problem.stretch[grouping.link[number]] if slows else 1.0


@settings(max_examples=60)
@given(problems(most=6))
def test_a_replay_takes_what_a_plain_simulation_takes(problem: PassProblem) -> None:
    for run in every_run(problem):
        assert run.total_s == pytest.approx(simulated_s(problem, run.grouping, run.sequence), rel=EXACT)


@settings(max_examples=150)
@given(problems())
def test_finds_the_best_of_all_orders_and_proves_it(problem: PassProblem) -> None:
    best_s = min(run.total_s for run in every_run(problem))
    solved = solve_pass(problem, num_nodes=ENOUGH_NODES)
    assert solved.ordered.total_s == pytest.approx(best_s, rel=2e-6)
    assert solved.is_proven
    assert solved.lower_bound_s <= best_s * (1 + EXACT)


@settings(max_examples=150)
@given(problems())
def test_no_order_is_faster_than_the_bound_of_its_fused_kernels(problem: PassProblem) -> None:
    assert pass_bound_s(problem) <= min(run.total_s for run in every_run(problem)) * (1 + EXACT)
    choices, is_complete = fused_choices(problem, ())
    assert is_complete
    assert {frozenset(choice.pairs) for choice in choices} == set(map(frozenset, fused_sets(problem.pairs)))
    for choice in choices:
        grouping = grouping_of(problem, choice.pairs)
        best_s = min(replay(problem, grouping, sequence).total_s for sequence in sequences(grouping))
        assert choice.bound_s <= best_s * (1 + EXACT)
