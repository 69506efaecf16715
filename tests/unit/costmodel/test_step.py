from __future__ import annotations

import msgspec
import numpy as np
import pytest

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.formulas.flops import flops_per_token
from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Collective, CollectiveWork, Group
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind, build_schedule, in_flight, step_time_s
from meshwright.costmodel.stage_cost import cost_context, stage_costs
from meshwright.costmodel.step import (
    barrier_s,
    hop_times_s,
    predict,
    schedule_of,
    stage_memory,
    state_slowdown_s,
    step_durations,
    step_overlap,
)
from meshwright.costmodel.strategy import AxisOrder, LayerStrategy, Mesh, ZeroStage
from meshwright.costmodel.workload import Workload

replace = msgspec.structs.replace


def _piped(
    configuration: TrainingConfiguration, kind: ScheduleKind, virtual_stages: int, pp: int = 2
) -> TrainingConfiguration:
    """The tiny model over pp stages of 8 GPUs."""
    share = 4 // (pp * virtual_stages)
    return replace(
        configuration,
        mesh=Mesh(pp=pp, dp=8 // pp),
        pipeline=Pipeline(schedule=kind, virtual_stages=virtual_stages),
        stages=((LayerStrategy(),) * share,) * (pp * virtual_stages),
    )


PIPES = [
    (ScheduleKind.ONE_F_ONE_B, 1, 2),
    (ScheduleKind.ONE_F_ONE_B, 1, 4),
    (ScheduleKind.GPIPE, 1, 2),
    (ScheduleKind.INTERLEAVED, 2, 2),
    (ScheduleKind.ZB_H1, 1, 2),
    (ScheduleKind.ZB_V, 2, 2),
    (ScheduleKind.DUALPIPE_V, 2, 2),
]


@pytest.mark.parametrize(("kind", "virtual_stages", "pp"), PIPES)
def test_the_breakdown_is_the_step(
    tiny_configuration: TrainingConfiguration, kind: ScheduleKind, virtual_stages: int, pp: int
) -> None:
    prediction = predict(_piped(tiny_configuration, kind, virtual_stages, pp))
    assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s, rel=1e-12)
    for name, seconds in prediction.breakdown_s.items():
        assert seconds >= -1e-12 * prediction.step_time_s, name


@pytest.mark.parametrize("zero", list(ZeroStage))
def test_one_stage_has_no_bubble_but_the_barrier(tiny_configuration: TrainingConfiguration, zero: ZeroStage) -> None:
    configuration = replace(
        tiny_configuration,
        mesh=Mesh(dp=8),
        sharding=Sharding(zero=zero),
        stages=((LayerStrategy(),) * 4,),
    )
    prediction = predict(configuration)
    assert prediction.breakdown_s["bubble"] == pytest.approx(barrier_s(configuration), abs=1e-12)


def test_two_equal_stages_wait_for_one_forward_and_one_backward(tiny_configuration: TrainingConfiguration) -> None:
    """Without hops, barrier and data parallelism; embedding and head make the stages slightly uneven."""
    configuration = replace(
        tiny_configuration,
        cluster=tiny_configuration.cluster.with_gpus(2),
        mesh=Mesh(pp=2),
        stages=((LayerStrategy(),) * 2,) * 2,
    )
    one, other = (cost.forward.total_s + cost.backward.total_s for cost in stage_costs(configuration))
    hop_s = hop_times_s(configuration)[0]
    num_micro_batches, optimizer_s = 16, max(cost.optimizer_s for cost in stage_costs(configuration))
    expected_s = num_micro_batches * max(one, other) + min(one, other) + barrier_s(configuration) + optimizer_s
    step_s = predict(configuration).step_time_s
    assert expected_s <= step_s <= expected_s + 2 * num_micro_batches * hop_s + 2 * abs(one - other)


def test_rates_follow_from_the_step(tiny_configuration: TrainingConfiguration) -> None:
    prediction = predict(tiny_configuration)
    tokens = 16 * 2048
    per_token = flops_per_token(tiny_configuration.model, 2048)
    assert prediction.tokens_per_s == pytest.approx(tokens / prediction.step_time_s)
    assert prediction.tokens_per_s_per_gpu == pytest.approx(tokens / prediction.step_time_s / 8)
    assert prediction.tflops_per_gpu == pytest.approx(tokens * per_token / prediction.step_time_s / 8 / 1e12)
    peak = tiny_configuration.cluster.gpu.bf16_flops_per_s
    assert prediction.mfu == pytest.approx(prediction.tflops_per_gpu * 1e12 / peak)
    assert sum(prediction.basis.values()) == pytest.approx(1.0)


def test_a_prediction_is_repeatable(tiny_configuration: TrainingConfiguration) -> None:
    assert predict(tiny_configuration) == predict(replace(tiny_configuration))


# Memory.


def test_1f1b_holds_as_many_micro_batches_as_stages_to_come(tiny_configuration: TrainingConfiguration) -> None:
    costs = stage_costs(tiny_configuration)
    first, last = stage_memory(schedule_of(tiny_configuration), costs)
    assert first.activations == pytest.approx(2 * costs[0].kept_bytes)
    assert last.activations == pytest.approx(costs[1].kept_bytes)
    for memory, cost in zip((first, last), costs, strict=True):
        held = memory.activations
        assert memory.total == pytest.approx(cost.static_bytes + held + cost.transient_bytes)
    prediction = predict(tiny_configuration)
    assert prediction.peak_memory_bytes == (first.total, last.total)
    assert prediction.memory_limit_bytes == memory_limit_bytes(tiny_configuration.cluster.gpu.usable_memory_bytes)
    assert prediction.fits


def test_fewer_micro_batches_than_stages_hold_fewer(tiny_configuration: TrainingConfiguration) -> None:
    configuration = replace(tiny_configuration, workload=Workload(global_batch=2, seq_len=2048))
    assert configuration.num_micro_batches == 1
    costs = stage_costs(configuration)
    first, _ = stage_memory(schedule_of(configuration), costs)
    assert first.activations == pytest.approx(costs[0].kept_bytes)


def test_a_device_holds_all_its_chunks_but_one_transient(tiny_configuration: TrainingConfiguration) -> None:
    configuration = _piped(tiny_configuration, ScheduleKind.INTERLEAVED, 2)
    schedule, costs = schedule_of(configuration), stage_costs(configuration)
    first = stage_memory(schedule, costs)[0]
    chunks = (costs[0], costs[2])
    assert first.optimizer == pytest.approx(sum(chunk.optimizer_bytes for chunk in chunks))
    assert first.transient == max(chunk.transient_bytes for chunk in chunks)
    held = max(a * costs[0].kept_bytes + b * costs[2].kept_bytes for a, b in in_flight(schedule)[0])
    assert first.activations == pytest.approx(held)


def test_what_does_not_fit_is_said_not_to(tiny_configuration: TrainingConfiguration) -> None:
    cluster = tiny_configuration.cluster
    profile = replace(cluster.profile, gpu=replace(cluster.gpu, usable_memory_bytes=1.8e9))
    assert not predict(replace(tiny_configuration, cluster=replace(cluster, profile=profile))).fits


# Messages between stages, and the barrier.


def _message_s(configuration: TrainingConfiguration, num_bytes: float, ranks_per_node: int) -> float:
    group = Group(size=2, ranks_per_node=ranks_per_node)
    work = CollectiveWork(collective=Collective.SEND_RECV, num_bytes=num_bytes, group=group)
    return operator_timing(work, configuration.cluster).time_s


def test_neighbours_in_a_node_use_nvlink_others_the_network(tiny_configuration: TrainingConfiguration) -> None:
    """pp 4 with stages 2 ranks apart on nodes of 4: stages 0-1 and 2-3 share nodes, 1-2 do not."""
    configuration = _piped(tiny_configuration, ScheduleKind.ONE_F_ONE_B, 1, pp=4)
    configuration = replace(configuration, cluster=replace(configuration.cluster, gpus_per_node=4))
    num_bytes = 2.0 * 2048 * 1024
    inside, between = (_message_s(configuration, num_bytes, ranks) for ranks in (2, 1))
    assert inside < between
    assert hop_times_s(configuration) == [inside, between, inside]


def test_the_order_of_ranks_moves_hops_into_the_node(tiny_configuration: TrainingConfiguration) -> None:
    configuration = _piped(tiny_configuration, ScheduleKind.ONE_F_ONE_B, 1)
    configuration = replace(configuration, cluster=replace(configuration.cluster, gpus_per_node=4))
    inner = replace(configuration, mesh=replace(configuration.mesh, order=AxisOrder.DP_OUTERMOST))
    num_bytes = 2.0 * 2048 * 1024
    assert hop_times_s(configuration) == [_message_s(configuration, num_bytes, 1)]
    assert hop_times_s(inner) == [_message_s(configuration, num_bytes, 2)]


def test_a_v_turns_round_on_one_device(tiny_configuration: TrainingConfiguration) -> None:
    hops = hop_times_s(_piped(tiny_configuration, ScheduleKind.ZB_V, 2))
    assert hops[1] == 0.0 < hops[0] == hops[2]


def test_interleaved_stages_also_send_from_the_last_device_to_the_first(
    tiny_configuration: TrainingConfiguration,
) -> None:
    hops = hop_times_s(_piped(tiny_configuration, ScheduleKind.INTERLEAVED, 2))
    assert len(hops) == 3
    assert hops[0] == hops[1] == hops[2] > 0.0


@pytest.mark.parametrize(("sequence_parallel", "tokens"), [(True, 1024), (False, 2048)])
def test_what_ranks_hold_of_the_residual_is_sent(
    tiny_configuration: TrainingConfiguration,
    sequence_parallel: bool,
    tokens: int,
) -> None:
    strategy = LayerStrategy(tp=2, ffn_tp=2, sequence_parallel=sequence_parallel)
    configuration = replace(tiny_configuration, mesh=Mesh(pp=2, dp=2, tp=2), stages=((strategy,) * 2,) * 2)
    assert hop_times_s(configuration) == [_message_s(configuration, 2.0 * tokens * 1024, 2)]


def test_a_first_stage_without_layers_sends_as_much(tiny_configuration: TrainingConfiguration) -> None:
    """Every rank of tp sends the whole residual where it is not split, also the embedding's."""
    strategy = LayerStrategy(tp=2, ffn_tp=2, sequence_parallel=False)
    configuration = replace(tiny_configuration, mesh=Mesh(pp=2, dp=2, tp=2), stages=((), (strategy,) * 4))
    assert hop_times_s(configuration) == [_message_s(configuration, 2.0 * 2048 * 1024, 2)]


@pytest.mark.parametrize(
    ("runtime", "kind", "virtual_stages", "overlaps"),
    [
        ("megatron", ScheduleKind.ONE_F_ONE_B, 1, False),
        ("megatron", ScheduleKind.INTERLEAVED, 2, True),
        ("meshwright", ScheduleKind.ONE_F_ONE_B, 1, True),
    ],
)
def test_messages_of_one_chunk_a_device_may_block(
    tiny_configuration: TrainingConfiguration, runtime: str, kind: ScheduleKind, virtual_stages: int, overlaps: bool
) -> None:
    configuration = replace(_piped(tiny_configuration, kind, virtual_stages), runtime=load_runtime(runtime))
    assert step_overlap(configuration).point_to_point is overlaps


def test_one_gpu_needs_no_barrier(tiny_configuration: TrainingConfiguration) -> None:
    alone = replace(
        tiny_configuration,
        cluster=tiny_configuration.cluster.with_gpus(1),
        mesh=Mesh(),
        stages=((LayerStrategy(),) * 4,),
    )
    assert barrier_s(alone) == 0.0 < barrier_s(tiny_configuration)
    assert hop_times_s(alone) == []
    assert predict(alone).breakdown_s["bubble"] == pytest.approx(0.0, abs=1e-12)


def test_the_runtime_says_what_of_the_step_overlaps(tiny_configuration: TrainingConfiguration) -> None:
    strict = replace(
        tiny_configuration.runtime,
        overlap_pipeline=False,
        overlap_gradient_reduce=False,
        overlap_parameter_gather=False,
    )
    configuration = replace(tiny_configuration, runtime=strict)
    policy = step_overlap(configuration)
    assert (policy.point_to_point, policy.grad_reduce, policy.param_gather) == (False, False, False)
    slower, faster = predict(configuration), predict(tiny_configuration)
    assert slower.step_time_s > faster.step_time_s
    assert slower.breakdown_s["exposed_data_parallel"] > faster.breakdown_s["exposed_data_parallel"]


def test_reductions_slow_every_device_and_gathers_the_first_stages() -> None:
    schedule = build_schedule(ScheduleKind.ZB_V, 2, 4, 2)
    gather_s, reduce_s = np.array([[1.0, 2.0], [4.0, 8.0]]), np.array([[0.1, 0.2], [0.3, 0.4]])
    assert state_slowdown_s(schedule, gather_s, reduce_s) == pytest.approx([3.3, 0.7])


def test_dualpipe_saves_what_forwards_and_backwards_hide_of_each_other(
    tiny_configuration: TrainingConfiguration,
) -> None:
    """A stage saves as much as its layers do, and never more than its forwards take."""
    configuration = _piped(tiny_configuration, ScheduleKind.DUALPIPE_V, 2)
    communicating = (LayerStrategy(sp=2, ep=2),)
    configuration = replace(configuration, mesh=Mesh(pp=2, dp=2, sp=2, ep=2), stages=(communicating,) * 4)
    context = cost_context(configuration)
    layer = context.compute(configuration.model.layers[0], communicating[0])
    passes = context.ordered(configuration.model.layers[0], communicating[0])
    apart_s = layer.forward.total_s + layer.dgrad.total_s + layer.wgrad.total_s
    assert layer.overlap_saving_s == pytest.approx(apart_s - passes[PassKind.JOINT].total_s)
    assert 0.0 < layer.overlap_saving_s <= layer.forward.exposed_s + layer.dgrad.exposed_s
    costs = stage_costs(configuration)
    assert [cost.overlap_saving_s for cost in costs[1:3]] == pytest.approx([layer.overlap_saving_s] * 2)
    separate = tuple(replace(cost, overlap_saving_s=0.0) for cost in costs)
    schedule, overlap = schedule_of(configuration), step_overlap(configuration)
    together_s, apart_s = (
        step_time_s(schedule, step_durations(configuration, schedule, stages), overlap) for stages in (costs, separate)
    )
    assert together_s == predict(configuration).step_time_s < apart_s


def test_schedules_without_overlapped_passes_save_nothing(tiny_configuration: TrainingConfiguration) -> None:
    for kind, virtual_stages, pp in PIPES:
        if kind is not ScheduleKind.DUALPIPE_V:
            costs = stage_costs(_piped(tiny_configuration, kind, virtual_stages, pp))
            assert {cost.overlap_saving_s for cost in costs} == {0.0}
