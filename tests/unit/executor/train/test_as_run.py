"""The prediction for the executor as it runs: no fused kernels, the plan's programs and orders, no search."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import ZeroStage
from meshwright.executor.stopwatch import StepPart
from meshwright.executor.train.as_run import OBEYED, RUNTIME, as_run, running_configuration

replace = msgspec.structs.replace


def test_on_one_stream_nothing_of_layers_is_hidden_and_the_step_takes_longer(
    tiny_configuration: TrainingConfiguration,
) -> None:
    found = as_run(tiny_configuration, balanced=False, one_stream=True)
    assert found.runtime == RUNTIME
    updating_alike = replace(tiny_configuration.runtime, one_pass_update=True)
    planned_s = predict(replace(tiny_configuration, runtime=updating_alike)).step_time_s
    assert found.step_time_s > planned_s
    hidden_s = predict(running_configuration(tiny_configuration, balanced=False, one_stream=True)).hidden_s
    assert (hidden_s["nvlink"], hidden_s["network"]) == (0.0, 0.0)
    streams = as_run(tiny_configuration, balanced=False, one_stream=False)
    assert planned_s <= streams.step_time_s <= found.step_time_s


def test_parts_add_up_where_gradients_are_reduced_and_weights_gathered_in_line(
    tiny_configuration: TrainingConfiguration,
) -> None:
    runtime = replace(tiny_configuration.runtime, overlap_gradient_reduce=False, overlap_parameter_gather=False)
    found = as_run(replace(tiny_configuration, runtime=runtime), balanced=False, one_stream=True)
    inside = (StepPart.COLLECTIVES, StepPart.EXPOSED)
    (parts,) = found.stages
    apart_s = [seconds for part, seconds in parts.items() if part not in inside]
    assert sum(apart_s) == pytest.approx(found.step_time_s)


def test_operators_keep_the_plans_order_without_fused_kernels(tiny_configuration: TrainingConfiguration) -> None:
    running = running_configuration(tiny_configuration, balanced=False, one_stream=False)
    fused = 0
    for planned, own in zip(tiny_configuration.orders.entries, running.orders.entries, strict=True):
        for name in planned.order.__struct_fields__:
            before, after = getattr(planned.order, name), getattr(own.order, name)
            if before is None:
                assert after is None
                continue
            assert tuple(after.names()) == tuple(before.names())
            assert {len(launch.operators) for launch in after.launches} == {1}
            fused += sum(len(launch.operators) > 1 for launch in before.launches)
    assert fused  # the plan has some


def test_what_the_executor_obeys_stays_the_plans(tiny_configuration: TrainingConfiguration) -> None:
    runtime = replace(
        tiny_configuration.runtime, fp32_gradients=False, gradient_reduce_bytes=4, accumulates_unsharded=True
    )
    running = running_configuration(replace(tiny_configuration, runtime=runtime), balanced=False, one_stream=False)
    assert {getattr(running.runtime, name) == getattr(runtime, name) for name in OBEYED} == {True}


def test_balanced_routing_loads_every_rank_alike(tiny_configuration: TrainingConfiguration) -> None:
    uneven = replace(tiny_configuration, workload=replace(tiny_configuration.workload, expert_imbalance=2.0))
    natural, balanced = (running_configuration(uneven, balanced=choice, one_stream=False) for choice in (False, True))
    assert (natural.workload.expert_imbalance, natural.runtime.expert_load_deviation) == (2.0, 0.14)
    assert (balanced.workload.expert_imbalance, balanced.runtime.expert_load_deviation) == (1.0, 0.0)


def test_a_forward_stays_beside_a_backward_where_the_executor_runs_them_so(
    dualpipe_configuration: TrainingConfiguration,
) -> None:
    sharded = replace(
        dualpipe_configuration, sharding=replace(dualpipe_configuration.sharding, zero=ZeroStage.GRADIENTS)
    )
    beside, behind = (
        running_configuration(one, balanced=False, one_stream=False) for one in (dualpipe_configuration, sharded)
    )
    assert all(cost.overlap_saving_s > 0.0 for cost in stage_costs(beside))
    assert all(cost.overlap_saving_s == 0.0 for cost in stage_costs(behind))
