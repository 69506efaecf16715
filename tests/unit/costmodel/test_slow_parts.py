"""A slow GPU or link by hand, on the tiny model: pp 2, dp 2, sp 2, ep 4 on one node of 8 GPUs."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.circumstances import Circumstances, LinkPlace, SlowGpu, SlowLink
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import GemmWork, MemoryKernel, MemoryWork
from meshwright.costmodel.simulate import Term
from meshwright.costmodel.slow_parts import slow_gpu_cluster, slow_link_cluster
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import predict, schedule_of, step_inputs
from meshwright.costmodel.strategy import AxisOrder

replace = msgspec.structs.replace


@pytest.fixture
def over_nodes(tiny_configuration: TrainingConfiguration) -> TrainingConfiguration:
    """The same on four nodes of two GPUs, so that messages, rings and dispatch cross the network."""
    return replace(tiny_configuration, cluster=replace(tiny_configuration.cluster, gpus_per_node=2))


def _with(configuration: TrainingConfiguration, **circumstances: object) -> TrainingConfiguration:
    return replace(configuration, circumstances=Circumstances(**circumstances))  # type: ignore[arg-type]


def test_a_slow_gpu_takes_as_much_longer(tiny_configuration: TrainingConfiguration) -> None:
    cluster = tiny_configuration.cluster
    slow = slow_gpu_cluster(cluster, 1.25)
    product = GemmWork(m=8192, n=8192, k=8192)
    copied = MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1e9, write_bytes=1e9)
    for work in (product, copied):
        ratio = operator_timing(work, slow).time_s / operator_timing(work, cluster).time_s
        assert ratio == pytest.approx(1.25, rel=1e-3)


def test_no_circumstances_change_nothing(tiny_configuration: TrainingConfiguration) -> None:
    unchanged = _with(tiny_configuration, slow_gpu=SlowGpu(stage=1), slow_link=SlowLink(stage=0), seed=3, tokens=1e12)
    assert predict(unchanged) == predict(tiny_configuration)


def test_only_the_stage_of_a_slow_gpu_is_slow(tiny_configuration: TrainingConfiguration) -> None:
    schedule = schedule_of(tiny_configuration)
    nominal = stage_costs(tiny_configuration)
    costs, _ = step_inputs(_with(tiny_configuration, slow_gpu=SlowGpu(time_factor=1.5, stage=1)), schedule)
    assert costs[0] == nominal[0]
    assert costs[1].forward.gemm_s == pytest.approx(1.5 * nominal[1].forward.gemm_s, rel=0.05)
    assert costs[1].optimizer_s > nominal[1].optimizer_s
    assert (costs[1].static_bytes, costs[1].kept_bytes) == (nominal[1].static_bytes, nominal[1].kept_bytes)


def test_a_slow_gpu_is_where_it_costs_most(tiny_configuration: TrainingConfiguration) -> None:
    placed = [
        predict(_with(tiny_configuration, slow_gpu=SlowGpu(time_factor=1.3, stage=stage))).step_time_s
        for stage in range(2)
    ]
    assert predict(_with(tiny_configuration, slow_gpu=SlowGpu(time_factor=1.3))).step_time_s == max(placed)
    assert min(placed) > predict(tiny_configuration).step_time_s


def test_a_slow_boundary_slows_its_messages(tiny_configuration: TrainingConfiguration) -> None:
    schedule = schedule_of(tiny_configuration)
    link = SlowLink(bandwidth_fraction=0.1, place=LinkPlace.BOUNDARY)
    nominal, slow = (step_inputs(c, schedule) for c in (tiny_configuration, _with(tiny_configuration, slow_link=link)))
    assert slow[0] == nominal[0]
    for term in (Term.FORWARD_HOP, Term.BACKWARD_HOP):
        assert (slow[1].of(term) > nominal[1].of(term)).all()


def test_a_slow_ring_slows_gathers_and_reductions_alone(over_nodes: TrainingConfiguration) -> None:
    schedule = schedule_of(over_nodes)
    link = SlowLink(bandwidth_fraction=0.5, place=LinkPlace.DATA_PARALLEL, stage=0)
    nominal = stage_costs(over_nodes)
    costs, durations = step_inputs(_with(over_nodes, slow_link=link), schedule)
    assert costs[1] == nominal[1]
    assert costs[0].grad_reduce_s > 1.5 * nominal[0].grad_reduce_s
    assert costs[0].param_gather_s > nominal[0].param_gather_s
    assert (costs[0].forward, costs[0].backward) == (nominal[0].forward, nominal[0].backward)
    assert (durations.of(Term.FORWARD_HOP) == step_inputs(over_nodes, schedule)[1].of(Term.FORWARD_HOP)).all()


def test_a_slow_adapter_slows_all_that_crosses_it(over_nodes: TrainingConfiguration) -> None:
    schedule = schedule_of(over_nodes)
    nominal, before = step_inputs(over_nodes, schedule)
    slowed = _with(over_nodes, slow_link=SlowLink(bandwidth_fraction=0.5, stage=0))
    costs, durations = step_inputs(slowed, schedule)
    assert costs[1] == nominal[1]
    assert costs[0].grad_reduce_s > nominal[0].grad_reduce_s
    assert costs[0].forward.total_s > nominal[0].forward.total_s
    assert costs[0].forward.gemm_s == nominal[0].forward.gemm_s
    assert (durations.of(Term.FORWARD_HOP) > before.of(Term.FORWARD_HOP)).all()


def test_a_slow_gpu_and_a_slow_link_add_up_in_one_stage(over_nodes: TrainingConfiguration) -> None:
    gpu, link = SlowGpu(time_factor=1.5, stage=0), SlowLink(bandwidth_fraction=0.25, stage=0)
    times = [
        predict(_with(over_nodes, **given)).step_time_s
        for given in ({}, {"slow_gpu": gpu}, {"slow_link": link}, {"slow_gpu": gpu, "slow_link": link})
    ]
    assert times[0] < min(times[1:3]) <= max(times[1:3]) < times[3]


def test_a_slow_network_leaves_nvlink_alone(tiny_configuration: TrainingConfiguration) -> None:
    cluster = tiny_configuration.cluster
    slow = slow_link_cluster(cluster, 0.5, nvlink=False)
    assert slow.network_bytes_per_s == cluster.network_bytes_per_s / 2
    assert slow.gpu == cluster.gpu
    both = slow_link_cluster(cluster, 0.5, nvlink=True)
    assert both.gpu.nvlink_bytes_per_s == cluster.gpu.nvlink_bytes_per_s / 2


def test_rank_order_decides_which_messages_cross_nodes(tiny_configuration: TrainingConfiguration) -> None:
    """With dp outermost the two stages of a replica share a node of four GPUs: a slow adapter cannot slow them."""
    mesh = replace(tiny_configuration.mesh, order=AxisOrder.DP_OUTERMOST, ep=2)
    stages = tuple(tuple(replace(layer, ep=2) for layer in stage) for stage in tiny_configuration.stages)
    cluster = replace(tiny_configuration.cluster, gpus_per_node=4)
    inside = replace(tiny_configuration, mesh=mesh, stages=stages, cluster=cluster)
    schedule = schedule_of(inside)
    slowed = _with(inside, slow_link=SlowLink(bandwidth_fraction=0.5, stage=0))
    before, after = step_inputs(inside, schedule)[1], step_inputs(slowed, schedule)[1]
    assert (before.of(Term.FORWARD_HOP) == after.of(Term.FORWARD_HOP)).all()
    assert (before.of(Term.GRAD_REDUCE)[0] < after.of(Term.GRAD_REDUCE)[0]).all()
