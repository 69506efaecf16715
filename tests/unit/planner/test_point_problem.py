from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from meshwright.costmodel.beside import met
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.catalogue import layer_strategies, offloads, recompute_policies
from meshwright.planner.choice import COST_FIELDS
from meshwright.planner.cutting_planes import solve_point
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.point import PointProblem
from meshwright.planner.point_problem import TRANSIENT_STEPS, point_context, point_problem, solved_configuration
from meshwright.planner.space import LayerShape, OuterPoint, Problem

RUNTIME = load_runtime("meshwright")
ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=4, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=4096))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=8, top_k=2, intermediate=2048))


def _problem(*fixes: str, limit_bytes: float = 60e9, host_memory_bytes: float = 2e12) -> Problem:
    cluster = load_cluster("h100", num_gpus=8)
    gpu = msgspec.structs.replace(cluster.gpu, usable_memory_bytes=(limit_bytes + 1.5 * 2**30) / 0.97)
    profile = msgspec.structs.replace(cluster.profile, gpu=gpu)
    return Problem(
        model=ModelSpec(name="made-up", hidden=1024, vocab=4096, layers=(DENSE, MOE, MOE, MOE)),
        cluster=msgspec.structs.replace(cluster, profile=profile, host_memory_bytes=host_memory_bytes),
        workload=Workload(global_batch=16, seq_len=2048),
        fixes=parse_fixes(fixes),
    )


def _point(
    kind: ScheduleKind = ScheduleKind.ONE_F_ONE_B, virtual_stages: int = 1, pp: int = 2, zero: str = "1"
) -> OuterPoint:
    return OuterPoint(
        shape=LayerShape(group=2, cp=1, ep=4, etp=1, micro_batch=1),
        mesh=Mesh(pp=pp, dp=4 // pp, sp=2, ep=4),
        schedule=kind,
        virtual_stages=virtual_stages,
        sharding=Sharding(zero=ZeroStage(zero)),
        num_micro_batches=16 * pp // 4,
    )


def _inner(problem: Problem, point: OuterPoint) -> PointProblem:
    inner = point_problem(problem, RUNTIME, point)
    assert inner is not None
    return inner


@pytest.mark.parametrize(
    ("kind", "virtual_stages", "zero"),
    [
        (ScheduleKind.ONE_F_ONE_B, 1, "1"),
        (ScheduleKind.ONE_F_ONE_B, 1, "3"),
        (ScheduleKind.ZB_V, 2, "1"),
        (ScheduleKind.INTERLEAVED, 2, "1"),
    ],
)
def test_every_strategy_left_out_is_beaten_in_everything(kind: ScheduleKind, virtual_stages: int, zero: str) -> None:
    """So that a search over the choices is a search over all strategies."""
    problem, point = _problem(), _point(kind, virtual_stages, zero=zero)
    inner, context = _inner(problem, point), point_context(problem, RUNTIME, point)
    split = kind is ScheduleKind.ZB_V
    step = inner.memory_limit_bytes / TRANSIENT_STEPS
    precision, node = problem.workload.precision, problem.cluster.gpus_per_node
    for layer, choices in zip(problem.model.layer_types, inner.choices, strict=True):
        every = [
            msgspec.structs.replace(strategy, recompute=policy, offload=offload)
            for strategy in layer_strategies(layer, point.shape, problem.fixes, precision, node)
            for policy in recompute_policies(problem.fixes)
            for offload in offloads(policy, problem.fixes)
        ]
        assert {choice.key for choice in choices} < set(every)
        for strategy in every:
            part = context.layer(layer, strategy)
            compute, state = part.compute, part.state
            backward = ("dgrad_s", "wgrad_s") if split else ("backward_s",)
            limits = {
                "forward_s": compute.forward.total_s,
                **{name: getattr(compute, name.removesuffix("_s")).total_s for name in backward},
                "param_gather_s": state.param_gather_s,
                "grad_reduce_s": state.grad_reduce_s,
                "optimizer_s": state.optimizer_s,
                "static_bytes": state.static_bytes,
                "kept_bytes": compute.kept_bytes,
                "transient_bytes": compute.transient_bytes + step,
            }
            assert any(
                all(getattr(choice, name) <= limit * (1 + 1e-12) for name, limit in limits.items())
                for choice in choices
            ), strategy


def test_a_choice_has_the_numbers_of_its_layer() -> None:
    problem, point = _problem(), _point()
    inner, context = _inner(problem, point), point_context(problem, RUNTIME, point)
    for layer, choices in zip(problem.model.layer_types, inner.choices, strict=True):
        for choice in choices:
            assert isinstance(choice.key, LayerStrategy)
            part = context.layer(layer, choice.key)
            assert choice.forward_s == part.compute.forward.total_s
            assert choice.kept_bytes == part.compute.kept_bytes
            assert choice.static_bytes == part.state.static_bytes
            rounded_up = choice.transient_bytes - part.compute.transient_bytes
            assert 0 <= rounded_up <= inner.memory_limit_bytes / TRANSIENT_STEPS
            assert all(getattr(choice, name) >= 0 for name in COST_FIELDS)


def test_layers_are_told_apart_by_kind() -> None:
    inner = _inner(_problem(), _point())
    assert inner.layer_types == (0, 1, 1, 1)
    assert len(inner.choices) == 2


def test_only_schedules_with_chunks_know_their_split() -> None:
    assert _inner(_problem(), _point()).boundaries == ()
    assert _inner(_problem(), _point(ScheduleKind.ZB_V, 2)).boundaries == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("fix", "field", "value"),
    [
        ("recompute=full", "recompute", Recompute.FULL),
        ("recompute=none", "recompute", Recompute.NONE),
        ("tp=2", "tp", 2),
        ("sp=2", "sp", 2),
    ],
)
def test_pinned_choices_are_the_only_ones(fix: str, field: str, value: object) -> None:
    for choices in _inner(_problem(fix), _point()).choices:
        assert {getattr(choice.key, field) for choice in choices} == {value}


def test_tensors_wait_in_host_memory_only_where_it_holds_them() -> None:
    def offloading(problem: Problem) -> bool:
        choices = [choice for kind in _inner(problem, _point()).choices for choice in kind]
        return any(isinstance(choice.key, LayerStrategy) and choice.key.offload for choice in choices)

    assert offloading(_problem())
    assert not offloading(_problem(host_memory_bytes=1e8))


def test_a_point_without_a_strategy_has_no_problem() -> None:
    assert point_problem(_problem("sp=2,tp=2"), RUNTIME, _point()) is None


def _solved(problem: Problem, point: OuterPoint, num_layers: int = 4) -> tuple[TrainingConfiguration, float]:
    inner = _inner(problem, point)
    solution = solve_point(inner, relative_gap=1e-6)
    assert sum(solution.layers_per_virtual_stage) == num_layers
    configuration = solved_configuration(problem, RUNTIME, point, inner, solution)
    assert max(predict(configuration).peak_memory_bytes) <= max(solution.peak_memory_bytes)
    assert max(solution.peak_memory_bytes) <= inner.memory_limit_bytes
    return configuration, solution.step_time_s


@pytest.mark.parametrize(
    ("kind", "virtual_stages"),
    [
        (ScheduleKind.ONE_F_ONE_B, 1),
        (ScheduleKind.INTERLEAVED, 2),
        (ScheduleKind.ZB_V, 2),
        (ScheduleKind.DUALPIPE_V, 2),
    ],
)
@pytest.mark.parametrize("limit_bytes", [60e9, 0.78e9])
def test_a_solution_is_a_configuration_that_takes_as_long(
    kind: ScheduleKind, virtual_stages: int, limit_bytes: float
) -> None:
    configuration, step_time_s = _solved(_problem(limit_bytes=limit_bytes), _point(kind, virtual_stages))
    prediction = predict(configuration)
    assert prediction.step_time_s == pytest.approx(step_time_s, rel=1e-9)
    assert prediction.fits


def test_on_the_way_up_they_come_last_so_that_layers_of_dualpipe_meet() -> None:
    problem = _problem(limit_bytes=1.6e9)
    model = msgspec.structs.replace(problem.model, layers=(problem.model.layers[-1],) * 8)
    configuration, _ = _solved(msgspec.structs.replace(problem, model=model), _point(ScheduleKind.DUALPIPE_V, 2), 8)
    down, _, _, up = (configuration.layers_in_order(stage) for stage in range(4))
    ranks = [list(Recompute).index(strategy.recompute) for _, strategy in (*down, *up)]
    assert ranks[0] > ranks[1], "the limit should leave a mix"
    assert ranks[2] < ranks[3]
    assert len(met(down, up)) == sum((Counter(down) & Counter(up)).values())


def test_layers_that_recompute_more_come_first() -> None:
    configuration, _ = _solved(_problem(limit_bytes=0.88e9), _point(pp=1))
    order = list(Recompute)
    ranks = [order.index(strategy.recompute) for strategy in configuration.stages[0][1:]]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) > 1, "the limit should leave a mix"
