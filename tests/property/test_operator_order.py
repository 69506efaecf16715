"""The order of operators against every order there is, on small made-up passes, and laws on passes of real layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, permutations, product

import msgspec
import networkx as nx
import pulp
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from meshwright.costmodel.hardware import ClusterSpec, Interference
from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.greedy import Filling, Greedy
from meshwright.costmodel.order.grouping import Grouping, grouping_of, tails_s, unit_times_s
from meshwright.costmodel.order.launch_order import PassKind, PassOrder
from meshwright.costmodel.order.list_schedule import in_program_order, launched, list_schedule
from meshwright.costmodel.order.ordered_pass import ordered_pass, serial_timeline
from meshwright.costmodel.order.pass_problem import COMPUTE, PassProblem, pass_problem
from meshwright.costmodel.order.run_order import Run, replay
from meshwright.costmodel.order.stream_use import stream_use
from meshwright.costmodel.order_memory import OrderMemory, order_memory
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.pass_times import problem_of
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.layer import build_layer
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
    Resource,
    Work,
)
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Recompute
from meshwright.hardware_profiles import load_cluster
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
    made = tuple(draw(operators(index)) for index in range(draw(st.integers(3, most))))
    times_s = {op.name: draw(thousandths) for op in made}
    overlap = LayerOverlap(
        tensor=draw(st.sampled_from(levels)),
        sequence=draw(st.sampled_from(levels)),
        context=draw(st.sampled_from(levels)),
        expert=draw(st.sampled_from(levels)),
        fused_share=draw(st.sampled_from((0.8, 1.0, 0.3))),
    )
    copying_loss = draw(st.sampled_from((0.0, 0.02, 0.4)))
    problem = pass_problem(made, times_s, overlap, draw(st.sampled_from(interferences)), copying_loss=copying_loss)
    assume(all(_can_run(problem, fused) for fused in fused_sets(problem)))
    return problem


def _can_run(problem: PassProblem, fused: tuple[FusedPair, ...]) -> bool:
    """Whether kernels do not wait for each other in a circle, which those of layers never do."""
    home = {index: pair.members for pair in fused for index in pair.members}
    graph: nx.DiGraph[tuple[int, ...]] = nx.DiGraph()
    for index, sources in enumerate(problem.shape.before):
        ends = {(home.get(source, (source,)), home.get(index, (index,))) for source in sources}
        graph.add_edges_from((source, target) for source, target in ends if source != target)
    return nx.is_directed_acyclic_graph(graph)


def fused_sets(problem: PassProblem) -> Iterator[tuple[FusedPair, ...]]:
    """Every set of pairs that share no operator."""
    for bits in range(1 << len(problem.pairs)):
        chosen = tuple(pair for place, pair in enumerate(problem.pairs) if bits >> place & 1)
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
    for fused in fused_sets(problem):
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


@settings(max_examples=120)
@given(problems(most=6))
def test_a_replay_takes_what_a_plain_simulation_takes(problem: PassProblem) -> None:
    for run in every_run(problem):
        assert run.total_s == pytest.approx(simulated_s(problem, run.grouping, run.sequence), rel=EXACT)


@settings(max_examples=250)
@given(problems())
def test_finds_the_best_of_all_orders_and_proves_it(problem: PassProblem) -> None:
    best_s = min(run.total_s for run in every_run(problem))
    solved = solve_pass(problem, num_nodes=ENOUGH_NODES)
    assert solved.ordered.total_s == pytest.approx(best_s, rel=2e-6)
    assert solved.is_proven
    assert solved.lower_bound_s <= best_s * (1 + EXACT)


@settings(max_examples=250)
@given(problems())
def test_no_order_is_faster_than_the_bound_of_its_fused_kernels(problem: PassProblem) -> None:
    assert pass_bound_s(problem) <= min(run.total_s for run in every_run(problem)) * (1 + EXACT)
    choices, is_complete = fused_choices(problem, ())
    assert is_complete
    assert {frozenset(choice.pairs) for choice in choices} == set(map(frozenset, fused_sets(problem)))
    for choice in choices:
        grouping = grouping_of(problem, choice.pairs)
        best_s = min(replay(problem, grouping, sequence).total_s for sequence in sequences(grouping))
        assert choice.bound_s <= best_s * (1 + EXACT)


def start_orders(run: Run) -> Iterator[list[int]]:
    """The operators in the order in which they start; every one, where several start together."""
    numbers = sorted(run.sequence, key=lambda number: run.start_s[number])
    together = [list(group) for _, group in groupby(numbers, key=lambda number: round(run.start_s[number], 12))]
    for chosen in product(*map(permutations, together)):
        yield [index for group in chosen for number in group for index in run.grouping.groups[number]]


@settings(max_examples=120)
@given(problems(most=6), st.data())
def test_nothing_that_fits_in_memory_is_faster_than_the_bound(problem: PassProblem, data: st.DataObject) -> None:
    """Memory is a rule on the order: one operator comes at most so many places behind another, as if it freed it."""
    last = len(problem.operators) - 1
    late, early, most = (data.draw(st.integers(0, last)) for _ in range(3))
    program_order = list(range(last + 1))

    def fits(order: Sequence[int]) -> bool:
        return list(order).index(late) - list(order).index(early) <= most or list(order) == program_order

    fitting_s = (run.total_s for run in every_run(problem) if all(map(fits, start_orders(run))))
    solved = solve_pass(problem, fits, num_nodes=ENOUGH_NODES, num_replays=0)
    assert fits(launched(solved.ordered.run))
    assert solved.lower_bound_s <= min(fitting_s, default=float("inf")) * (1 + EXACT)
    assert solved.ordered.total_s <= in_program_order(problem).total_s * (1 + EXACT)


@settings(max_examples=120)
@given(problems())
def test_list_scheduling_lies_between_the_best_order_and_program_order(problem: PassProblem) -> None:
    found_s = list_schedule(problem).total_s
    assert found_s <= in_program_order(problem).total_s
    assert found_s >= min(run.total_s for run in every_run(problem)) * (1 - EXACT)


@settings(max_examples=120)
@given(problems(most=9), st.sampled_from(Filling))
def test_the_greedy_rule_takes_what_its_order_takes(problem: PassProblem, filling: Filling) -> None:
    for fused in fused_sets(problem):
        grouping = grouping_of(problem, fused)
        times_s = unit_times_s(problem, grouping)
        total_s, sequence = Greedy(problem, grouping, times_s, tails_s(grouping, times_s), filling).run()
        assert total_s == pytest.approx(replay(problem, grouping, sequence).total_s, rel=EXACT)


@settings(max_examples=120)
@given(problems())
def test_every_second_of_a_pass_is_accounted_for(problem: PassProblem) -> None:
    alone_s = dict.fromkeys(Resource, 0.0)
    for op, time_s in zip(problem.operators, problem.time_s, strict=True):
        alone_s[op.resource] += time_s
    for run in every_run(problem):
        use = stream_use(problem, run)
        spent_s = alone_s[Resource.COMPUTE] + sum(use.exposed_s.values()) + use.slowdown_s
        assert spent_s == pytest.approx(run.total_s, rel=EXACT)
        for link in (Resource.NVLINK, Resource.NETWORK, Resource.COPY_ENGINE):
            assert use.exposed_s[link] + use.hidden_s[link] == pytest.approx(alone_s[link], abs=1e-12)
            assert use.exposed_s[link] >= 0.0


def a_gather_apart_from_computation(between_s: float = 0.001) -> PassProblem:
    """After `0`: `1` over the network and `2`; and `3` with a product of 2 ms, which nothing can hide."""
    reads = ("t-1", "t0", "t1", "t0", "t3")
    exchange, ring = COMMUNICATIONS[0], COMMUNICATIONS[-1]
    made = []
    for index, kind in enumerate((exchange, ring, exchange, exchange, None)):
        work: Work = COMPUTATIONS[0]
        if kind is not None:
            work = CollectiveWork(collective=kind[1], num_bytes=1.0, group=kind[2])
        made.append(
            Operator(
                name=f"{index}",
                module="made-up",
                phase=Pass.FORWARD,
                work=work,
                reads=(reads[index],),
                writes=(f"t{index}",),
                axis=None if kind is None else kind[0],
            )
        )
    overlap = LayerOverlap(
        tensor=OverlapLevel.INTER_OPERATOR,
        sequence=OverlapLevel.INTER_OPERATOR,
        context=OverlapLevel.INTER_OPERATOR,
        expert=OverlapLevel.INTER_OPERATOR,
        fused_share=0.8,
    )
    times_s = {"0": 0.001, "1": between_s, "2": 0.001, "3": 0.001, "4": 0.002}
    return pass_problem(tuple(made), times_s, overlap, INTERFERENCES[1])


@settings(max_examples=120)
@given(problems(), st.integers(0, 6), st.floats(1.0, 3.0))
@example(a_gather_apart_from_computation(), 1, 2.0)
def test_with_more_seconds_no_order_is_faster_than_the_bound_with_less(
    problem: PassProblem, which: int, factor: float
) -> None:
    """What a what-if of a slower link may rest on. The bound itself may fall, and orders found may be faster."""
    which %= len(problem.operators)
    times_s = tuple(time_s * (factor if index == which else 1.0) for index, time_s in enumerate(problem.time_s))
    slower = replace(problem, time_s=times_s)
    assert pass_bound_s(problem) <= min(run.total_s for run in every_run(slower)) * (1 + EXACT)


@pytest.mark.parametrize("between_s", [0.001, 0.002])
def test_computation_that_cannot_run_beside_a_communication_is_not_stretched(between_s: float) -> None:
    """`0` and `3` stand idle for 2 ms. The product takes 2 ms, and 1 ms of `2` costs it 0.2 x 1.1 ms."""
    assert pass_bound_s(a_gather_apart_from_computation(between_s)) == pytest.approx(0.00422, rel=EXACT)


@settings(max_examples=120)
@given(problems(most=9))
def test_an_order_survives_its_file_and_gives_the_same_pass(problem: PassProblem) -> None:
    found = solve_pass(problem, num_nodes=200, num_replays=50)
    order = found.ordered.order(found.gap)
    read = msgspec.json.decode(msgspec.json.encode(order), type=PassOrder)
    assert read == order
    assert ordered_pass(problem, read).total_s == found.ordered.total_s
    assert ordered_pass(problem, read).order(found.gap) == order


# A second opinion: without interference and fused kernels a pass is a job shop.

ROOMY_S = 1.0


@settings(max_examples=15)
@given(problems(most=6, interferences=INTERFERENCES[:1], levels=(OverlapLevel.INTER_OPERATOR, OverlapLevel.NONE)))
def test_a_job_shop_solver_finds_the_same_seconds(problem: PassProblem) -> None:
    assert not problem.pairs
    problem = replace(problem, loss=(0.0,) * len(problem.loss))  # copies slow what they run beside
    solved = solve_pass(problem, num_nodes=ENOUGH_NODES)
    assert solved.ordered.total_s == pytest.approx(_job_shop_s(problem), rel=1e-6)


def _job_shop_s(problem: PassProblem) -> float:
    """The least seconds by an integer program: start times, and which of two operators on a stream goes first."""
    program = pulp.LpProblem("job_shop", pulp.LpMinimize)
    starts = [program.add_variable(f"start{index}", 0.0, ROOMY_S) for index in range(len(problem.operators))]
    end = program.add_variable("end", lowBound=0.0)
    program += end
    for index, (start, time_s) in enumerate(zip(starts, problem.time_s, strict=True)):
        program += end >= start + time_s
        for source in problem.shape.before[index]:
            program += start >= starts[source] + problem.time_s[source]
        for other in range(index):
            if problem.link[other] == problem.link[index]:
                first = program.add_variable(f"first{other}_{index}", cat="Binary")
                program += start >= starts[other] + problem.time_s[other] - ROOMY_S * (1 - first)
                program += starts[other] >= start + time_s - ROOMY_S * first
    program.solve(pulp.HiGHS(msg=False, mip_feasibility_tolerance=1e-10, primal_feasibility_tolerance=1e-10))
    return float(pulp.value(end))


# Passes of real layers.

MODELS = ("mixtral-8x7b", "deepseek-v3", "internal-352b")
SPLITS = {
    "tp-tp": LayerStrategy(tp=8, ffn_tp=8, etp=8, dispatch=Dispatch.ALL_GATHER),
    "tp-rows": LayerStrategy(tp=8, ep=8, dispatch=Dispatch.ALL_TO_ALL),
    "tp-gather": LayerStrategy(tp=8, ep=8, dispatch=Dispatch.ALL_GATHER),
    "sp-tp": LayerStrategy(sp=8, etp=8, dispatch=Dispatch.ALL_GATHER),
    "sp-rows": LayerStrategy(sp=8, ep=8, dispatch=Dispatch.ALL_TO_ALL),
    "sp-gather": LayerStrategy(sp=8, ep=8, dispatch=Dispatch.ALL_GATHER),
    "sp-nodes": LayerStrategy(sp=8, ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
}
CLUSTER, RUNTIME = load_cluster("h800", num_gpus=16), load_runtime("meshwright")


def _passes(
    name: str, split: str, policy: Recompute, cluster: ClusterSpec = CLUSTER
) -> dict[PassKind, tuple[PassProblem, OrderMemory]]:
    model = load_model(name)
    setting = ProgramSetting(
        hidden=model.hidden, micro_batch=1, seq_len=8192, strategy=SPLITS[split], gpus_per_node=cluster.gpus_per_node
    )
    program = build_layer(model.layers[-1], setting)
    return {
        kind: (
            problem_of(pass_operators(program, policy, kind), cluster, RUNTIME),
            order_memory(program, policy, kind),
        )
        for kind in PassKind
    }


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", [Recompute.NONE, Recompute.SELECTIVE])
def test_a_layers_order_replays_to_the_last_digit_and_fits(name: str, split: str, policy: Recompute) -> None:
    for problem, memory in _passes(name, split, policy).values():
        found = ordered_pass(problem, fits=memory.fits)
        order = msgspec.json.decode(msgspec.json.encode(found.order()), type=PassOrder)
        again = ordered_pass(problem, order)
        assert again.total_s == found.total_s
        assert again.timeline() == found.timeline()
        assert again.indices() == found.indices()
        assert memory.fits(found.indices())
        assert memory.fits(range(len(problem.operators)))
        assert pass_bound_s(problem) * (1 - EXACT) <= found.total_s <= in_program_order(problem).total_s
        assert found.total_s <= serial_timeline(problem).end_s * (1 + EXACT)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", MODELS)
def test_a_forward_beside_a_backward_takes_no_less_than_either_and_no_more_than_both(name: str, split: str) -> None:
    passes = _passes(name, split, Recompute.SELECTIVE)
    forward, backward, joint = (passes[kind][0] for kind in (PassKind.FORWARD, PassKind.BACKWARD, PassKind.JOINT))
    joint_s = list_schedule(joint).total_s
    assert joint_s >= pass_bound_s(joint) * (1 - EXACT)
    assert pass_bound_s(joint) >= max(pass_bound_s(forward), pass_bound_s(backward)) * (1 - EXACT)
    assert joint_s <= (list_schedule(forward).total_s + list_schedule(backward).total_s) * 1.001
    dgrad, wgrad = (passes[kind][0] for kind in (PassKind.DGRAD, PassKind.WGRAD))
    assert list_schedule(backward).total_s <= (list_schedule(dgrad).total_s + list_schedule(wgrad).total_s) * 1.001


@pytest.mark.parametrize("split", SPLITS)
def test_faster_links_never_raise_the_bound(split: str) -> None:
    gpu = msgspec.structs.replace(CLUSTER.gpu, nvlink_bytes_per_s=1.5 * CLUSTER.gpu.nvlink_bytes_per_s)
    faster = msgspec.structs.replace(
        CLUSTER,
        network_bytes_per_s=2.0 * CLUSTER.network_bytes_per_s,
        profile=msgspec.structs.replace(CLUSTER.profile, gpu=gpu),
    )
    assert sum(_passes("internal-352b", split, Recompute.NONE, faster)[PassKind.FORWARD][0].time_s) < sum(
        _passes("internal-352b", split, Recompute.NONE)[PassKind.FORWARD][0].time_s
    )
    before, after = (_passes("internal-352b", split, Recompute.SELECTIVE, cluster) for cluster in (CLUSTER, faster))
    for kind in PassKind:
        assert pass_bound_s(after[kind][0]) <= pass_bound_s(before[kind][0]) * (1 + EXACT)
        solved = solve_pass(before[kind][0], num_nodes=50, num_replays=50)
        assert solved.lower_bound_s <= solved.ordered.total_s <= list_schedule(before[kind][0]).total_s
