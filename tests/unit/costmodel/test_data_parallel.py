from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from meshwright.costmodel.data_parallel import Sharding, StateCost, StateModel, copies_group
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.layer_cost import LayerCost, Terms
from meshwright.costmodel.layer_passes import LayerPasses
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.prepared import prepare
from meshwright.costmodel.program.operators import Collective, CollectiveWork, Group, MemoryKernel, MemoryWork
from meshwright.costmodel.program.program import Weights
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import AxisOrder, LayerStrategy, Mesh, ZeroStage
from meshwright.hardware_profiles import load_cluster

PP, DP = AxisOrder.PP_OUTERMOST, AxisOrder.DP_OUTERMOST
RUNTIME = RuntimeSpec(name="plain", source="test")
WEIGHTS = Weights(dense=1000.0, ffn=2000.0, expert=8000.0)
STRATEGY = LayerStrategy(tp=2, ffn_tp=2, ep=4)
ALONE = LayerStrategy()
MESH = Mesh(pp=2, dp=4, tp=2, ep=4)


@pytest.fixture
def cluster() -> ClusterSpec:
    return load_cluster("h100", num_gpus=16)


def _state(cluster: ClusterSpec, sharding: Sharding, mesh: Mesh = MESH, runtime: RuntimeSpec = RUNTIME) -> StateModel:
    return StateModel(cluster=cluster, mesh=mesh, sharding=sharding, runtime=runtime)


# Where copies lie.


def _ranks_of_stage(mesh: Mesh, stage: int) -> list[int]:
    """Global ranks of a pipeline stage, in the order of the experts' view."""
    return [
        d * mesh.data_stride + stage * mesh.pipeline_stride + inner
        for d in range(mesh.dp)
        for inner in range(mesh.replica_gpus)
    ]


def _placed(mesh: Mesh, split: int, gpus_per_node: int) -> set[tuple[int, int]]:
    """(size, ranks per node) of every group of copies, by writing down all ranks."""
    found = set()
    for stage in range(mesh.pp):
        ranks = _ranks_of_stage(mesh, stage)
        for first in range(split):
            group = ranks[first::split]
            found |= {(len(group), most) for most in Counter(rank // gpus_per_node for rank in group).values()}
    return found


@pytest.mark.parametrize("gpus_per_node", [4, 8])
@pytest.mark.parametrize("order", [PP, DP])
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("pp", [1, 2, 4])
@pytest.mark.parametrize("dp", [1, 2, 8])
def test_copies_lie_where_the_ranks_say(pp: int, dp: int, tp: int, order: AxisOrder, gpus_per_node: int) -> None:
    mesh = Mesh(pp=pp, dp=dp, tp=tp, order=order)
    most = mesh.stage_gpus if order is PP else mesh.replica_gpus
    for split in (1, 2, 4, 8, 16, 32, 64):
        if split <= most:
            group = copies_group(mesh, split, gpus_per_node)
            assert {(group.size, group.ranks_per_node)} == _placed(mesh, split, gpus_per_node)


def test_experts_folded_over_data_parallel_ranks_have_fewer_copies() -> None:
    mesh = Mesh(pp=2, dp=8, tp=2, ep=8)
    assert copies_group(mesh, 2, 8) == Group(size=8, ranks_per_node=4)
    assert copies_group(mesh, 8, 8) == Group(size=2, ranks_per_node=1)
    assert mesh.edp == 2


@pytest.mark.parametrize(("pp", "dp", "tp", "gpus_per_node"), [(3, 5, 1, 8), (5, 6, 2, 8), (3, 4, 3, 12), (2, 7, 1, 6)])
@pytest.mark.parametrize("order", [PP, DP])
def test_awkward_numbers_never_make_a_group_more_local_than_it_is(
    pp: int, dp: int, tp: int, gpus_per_node: int, order: AxisOrder
) -> None:
    mesh = Mesh(pp=pp, dp=dp, tp=tp, order=order)
    group = copies_group(mesh, tp, gpus_per_node)
    assert group.size == dp
    assert group.size % group.ranks_per_node == 0
    assert group.ranks_per_node <= max(most for _, most in _placed(mesh, tp, gpus_per_node))


# Bytes.


@pytest.mark.parametrize(
    ("zero", "parameters", "gradients", "optimizer"),
    [
        # Copies: dense and ffn over 8 / 2 = 4 ranks, experts over 8 / 4 = 2.
        (ZeroStage.NONE, 2 * 11000, 4 * 11000, 12 * 11000),
        (ZeroStage.OPTIMIZER, 2 * 11000, 4 * 11000, 12 * (250 + 500 + 4000)),
        (ZeroStage.GRADIENTS, 2 * 11000, 4 * (250 + 500 + 4000), 12 * (250 + 500 + 4000)),
        (ZeroStage.PARAMETERS, 2 * (250 + 500 + 4000), 4 * (250 + 500 + 4000), 12 * (250 + 500 + 4000)),
    ],
)
def test_bytes_under_zero(
    cluster: ClusterSpec, zero: ZeroStage, parameters: float, gradients: float, optimizer: float
) -> None:
    cost = _state(cluster, Sharding(zero=zero)).cost(WEIGHTS, STRATEGY)
    assert (cost.parameter_bytes, cost.gradient_bytes, cost.optimizer_bytes) == (parameters, gradients, optimizer)
    assert cost.static_bytes == parameters + gradients + optimizer


def test_gradients_in_bf16_take_half(cluster: ClusterSpec) -> None:
    runtime = msgspec.structs.replace(RUNTIME, fp32_gradients=False)
    cost = _state(cluster, Sharding(), runtime=runtime).cost(WEIGHTS, STRATEGY)
    assert cost.gradient_bytes == 2 * 11000


def test_gradients_of_parameters_that_stay_whole_may_be_fp32(cluster: ClusterSpec) -> None:
    """As FSDP2's are, which have the format of the parameters; under ZeRO-3 its FP32 parameters count once."""
    runtime = msgspec.structs.replace(RUNTIME, fp32_gradients=False, fp32_gradients_of_whole=True)
    held = {zero: _state(cluster, Sharding(zero=zero), runtime=runtime).gradient_bytes(1e8, 4) for zero in ZeroStage}
    assert list(held.values()) == [4e8, 4e8, 1e8, 0.5e8]


def test_shards_within_a_few_replicas(cluster: ClusterSpec) -> None:
    """Two replicas of the whole state: of the 4 copies of dense weights 2 shard, of the 2 of experts none."""
    cost = _state(cluster, Sharding(shard_degree=2)).cost(WEIGHTS, STRATEGY)
    assert cost.optimizer_bytes == 12 * (500 + 1000 + 8000)


def test_an_offloaded_optimizer_takes_no_memory_but_time(cluster: ClusterSpec) -> None:
    here = _state(cluster, Sharding()).cost(WEIGHTS, STRATEGY)
    there = _state(cluster, Sharding(offload_optimizer=True)).cost(WEIGHTS, STRATEGY)
    assert there.optimizer_bytes == 0.0
    assert there.parameter_bytes == here.parameter_bytes
    assert there.optimizer_s == pytest.approx(4750 * 8 / 3.9e9 + 4750 * 6 / cluster.gpu.pcie_bytes_per_s)


# Seconds.


def _seconds(cluster: ClusterSpec, kind: Collective, num_bytes: float, group: Group) -> float:
    return operator_timing(CollectiveWork(collective=kind, num_bytes=num_bytes, group=group), cluster).time_s


DENSE_ALONE, GROUP = Weights(dense=1e8), Group(size=4, ranks_per_node=4)


def _dense_cost(cluster: ClusterSpec, sharding: Sharding) -> StateCost:
    return _state(cluster, sharding).cost(DENSE_ALONE, STRATEGY)


def test_zero_0_reduces_everything_to_everyone(cluster: ClusterSpec) -> None:
    cost = _dense_cost(cluster, Sharding(zero=ZeroStage.NONE))
    assert cost.grad_reduce_s == _seconds(cluster, Collective.ALL_REDUCE, 4e8, GROUP)
    assert cost.param_gather_s == 0.0


def test_zero_1_scatters_gradients_and_gathers_parameters(cluster: ClusterSpec) -> None:
    cost = _dense_cost(cluster, Sharding())
    assert cost.grad_reduce_s == _seconds(cluster, Collective.REDUCE_SCATTER, 4e8, GROUP)
    assert cost.param_gather_s == _seconds(cluster, Collective.ALL_GATHER, 2e8, GROUP)


def test_hybrid_sharding_also_sums_over_the_replicas_of_a_shard(cluster: ClusterSpec) -> None:
    pair = Group(size=2, ranks_per_node=2)
    cost = _dense_cost(cluster, Sharding(shard_degree=2))
    scatter_s = _seconds(cluster, Collective.REDUCE_SCATTER, 4e8, pair)
    assert cost.grad_reduce_s == pytest.approx(scatter_s + _seconds(cluster, Collective.ALL_REDUCE, 2e8, pair))
    assert cost.param_gather_s == _seconds(cluster, Collective.ALL_GATHER, 2e8, pair)


def test_the_update_is_of_the_shard(cluster: ClusterSpec) -> None:
    whole, shard = (
        _dense_cost(cluster, Sharding(zero=zero)).optimizer_s for zero in (ZeroStage.NONE, ZeroStage.OPTIMIZER)
    )
    start_s = prepare(cluster.profile).memory_share(MemoryKernel.OPTIMIZER, backward=False).fused_start_s
    assert whole - start_s == pytest.approx(4 * (shard - start_s), rel=1e-6)


@pytest.mark.parametrize(
    ("sharding", "changes", "num_bytes"),
    [
        (Sharding(zero=ZeroStage.NONE), {}, 4e8),
        (Sharding(), {}, 1e8),
        (Sharding(), {"sums_whole_ends": True}, 4e8),
        (Sharding(), {"sums_whole_ends": True, "fp32_gradients": False}, 2e8),
        (Sharding(zero=ZeroStage.GRADIENTS), {"sums_whole_ends": True}, 1e8),
    ],
)
def test_a_table_at_both_ends_is_summed_over_the_two(
    cluster: ClusterSpec, sharding: Sharding, changes: dict[str, object], num_bytes: float
) -> None:
    """1e8 gradients in FP32, of which each of four ranks has a shard from ZeRO-1 on; the ends are in two nodes."""
    runtime = msgspec.structs.replace(RUNTIME, **changes)
    expected_s = _seconds(cluster, Collective.ALL_REDUCE, num_bytes, Group(size=2, ranks_per_node=1))
    assert _state(cluster, sharding, runtime=runtime).sum_of_ends_s(1e8, 2) == expected_s > 0.0


def test_ends_in_one_node_sum_inside_it_and_one_stage_has_nothing_to_sum(cluster: ClusterSpec) -> None:
    inside, alone = Mesh(pp=4, dp=2), Mesh(dp=16)
    pair_s = _seconds(cluster, Collective.ALL_REDUCE, 2e8, Group(size=2, ranks_per_node=2))
    assert _state(cluster.with_gpus(8), Sharding(), inside).sum_of_ends_s(1e8, 1) == pair_s
    assert _state(cluster, Sharding(), alone).sum_of_ends_s(1e8, 1) == 0.0


def test_one_gpu_communicates_nothing() -> None:
    alone = load_cluster("h100", num_gpus=1)
    runtime = msgspec.structs.replace(RUNTIME, step_host_s_per_layer=0.1)
    cost = _state(alone, Sharding(), Mesh(), runtime).cost(DENSE_ALONE, LayerStrategy())
    assert cost.param_gather_s == cost.grad_reduce_s == 0.0
    assert cost.optimizer_s < 0.1


# What ZeRO-2 and 3 add to a micro-batch.


def _layer(seconds: float, weights: Weights = DENSE_ALONE) -> LayerCost:
    terms = Terms(gemm_s=seconds)
    return LayerCost(
        passes=LayerPasses.ALL,
        forward=terms,
        backward=terms,
        dgrad=terms,
        wgrad=terms,
        overlap_saving_s=0.0,
        weights=weights,
        kept_bytes=1.0,
        late_bytes=0.0,
        transient_bytes=5.0,
    )


def test_zero_1_leaves_micro_batches_alone(cluster: ClusterSpec) -> None:
    assert _state(cluster, Sharding()).with_sharded_parameters(_layer(1.0), STRATEGY) == _layer(1.0)


def test_zero_2_scatters_gradients_beside_each_backward(cluster: ClusterSpec) -> None:
    state = _state(cluster, Sharding(zero=ZeroStage.GRADIENTS))
    cost = state.with_sharded_parameters(_layer(1.0), STRATEGY)
    scatter_s = _seconds(cluster, Collective.REDUCE_SCATTER, 4e8, GROUP)
    assert cost.forward == _layer(1.0).forward
    for terms in (cost.backward, cost.wgrad):
        assert terms.hidden_nvlink_s == pytest.approx(scatter_s)
        assert terms.exposed_s == 0.0
    assert cost.transient_bytes == 5.0
    assert state.cost(DENSE_ALONE, STRATEGY).grad_reduce_s == 0.0


def test_zero_3_gathers_for_both_passes_and_holds_two_layers(cluster: ClusterSpec) -> None:
    state = _state(cluster, Sharding(zero=ZeroStage.PARAMETERS))
    cost = state.with_sharded_parameters(_layer(1.0), STRATEGY)
    gather_s = _seconds(cluster, Collective.ALL_GATHER, 2e8, GROUP)
    scatter_s = _seconds(cluster, Collective.REDUCE_SCATTER, 4e8, GROUP)
    assert cost.forward.hidden_nvlink_s == cost.dgrad.hidden_nvlink_s == pytest.approx(gather_s)
    assert cost.backward.hidden_nvlink_s == pytest.approx(gather_s + scatter_s)
    assert cost.transient_bytes == 5.0 + 2 * 2e8
    assert state.cost(DENSE_ALONE, STRATEGY).param_gather_s == 0.0


def test_gradients_on_their_way_have_room_where_the_runtime_holds_some(cluster: ClusterSpec) -> None:
    roomy = msgspec.structs.replace(RUNTIME, gradient_slots=2)
    for zero, slots in ((ZeroStage.OPTIMIZER, 0), (ZeroStage.GRADIENTS, 2), (ZeroStage.PARAMETERS, 2)):
        sharding = Sharding(zero=zero)
        held, plain = (
            _state(cluster, sharding, runtime=one).with_sharded_parameters(_layer(1.0), STRATEGY).transient_bytes
            for one in (roomy, RUNTIME)
        )
        assert held - plain == slots * 4e8


def test_backward_may_write_gradients_elsewhere_first(cluster: ClusterSpec) -> None:
    """BF16 ones of FSDP2 beside the FP32 buffer that it reduces: 6 bytes a parameter."""
    sharding, copies = Sharding(zero=ZeroStage.PARAMETERS), {"gradient_slots": 1, "gradient_copy_bytes": 2}
    runtime = msgspec.structs.replace(RUNTIME, **copies)
    held = _state(cluster, sharding, runtime=runtime).with_sharded_parameters(_layer(1.0), STRATEGY)
    assert held.transient_bytes == 5.0 + 4e8 + 6e8


@pytest.mark.parametrize(("loss_bytes", "held"), [(1e8, 4e8), (9e8, 9e8)])
def test_what_the_loss_holds_is_gone_when_gradients_are_there(
    cluster: ClusterSpec, loss_bytes: float, held: float
) -> None:
    runtime = msgspec.structs.replace(RUNTIME, gradient_slots=1)
    sharded = _state(cluster, Sharding(zero=ZeroStage.GRADIENTS), runtime=runtime)
    plain = _state(cluster, Sharding(), runtime=runtime)
    costs = [one.with_sharded_parameters(_layer(1.0), STRATEGY, loss_bytes=loss_bytes) for one in (sharded, plain)]
    assert [cost.transient_bytes for cost in costs] == [5.0 + held, 5.0 + loss_bytes]


def test_what_exceeds_the_pass_is_exposed(cluster: ClusterSpec) -> None:
    state = _state(cluster, Sharding(zero=ZeroStage.GRADIENTS))
    scatter_s = _seconds(cluster, Collective.REDUCE_SCATTER, 4e8, GROUP)
    short = state.with_sharded_parameters(_layer(scatter_s / 2), STRATEGY).backward
    compute_slowdown, window = cluster.profile.interference.slowdowns(nvlink=True)
    assert short.hidden_nvlink_s == pytest.approx(scatter_s / 2 * compute_slowdown / window)
    assert short.hidden_nvlink_s + short.exposed_nvlink_s == pytest.approx(scatter_s)
    assert short.slowdown_s == pytest.approx(scatter_s / 2 * (compute_slowdown - 1.0))


def test_without_overlap_all_of_it_is_exposed(cluster: ClusterSpec) -> None:
    runtime = msgspec.structs.replace(RUNTIME, overlap=LayerOverlap(data=OverlapLevel.NONE))
    state = _state(cluster, Sharding(zero=ZeroStage.GRADIENTS), runtime=runtime)
    cost = state.with_sharded_parameters(_layer(1.0), STRATEGY)
    assert cost.backward.exposed_nvlink_s == pytest.approx(_seconds(cluster, Collective.REDUCE_SCATTER, 4e8, GROUP))
    assert cost.backward.slowdown_s == 0.0


def test_a_negative_degree_is_refused() -> None:
    with pytest.raises(StrategyError, match="shard_degree"):
        Sharding(shard_degree=-1)


def test_gradients_that_wait_for_the_last_micro_batch_are_held_whole(cluster: ClusterSpec) -> None:
    runtime = msgspec.structs.replace(RUNTIME, accumulates_unsharded=True)
    sharding = Sharding(zero=ZeroStage.PARAMETERS)
    each, once = (_state(cluster, sharding, runtime=one).cost(WEIGHTS, STRATEGY) for one in (RUNTIME, runtime))
    assert each.grad_reduce_s == 0.0 < once.grad_reduce_s
    assert once.gradient_bytes > each.gradient_bytes
    assert once.parameter_bytes == each.parameter_bytes


def test_optimizer_state_is_as_large_as_the_framework_makes_it(cluster: ClusterSpec) -> None:
    lean = msgspec.structs.replace(RUNTIME, optimizer_state_bytes=4)
    full, less = (_state(cluster, Sharding(), runtime=one).cost(WEIGHTS, STRATEGY) for one in (RUNTIME, lean))
    assert less.optimizer_bytes == pytest.approx(full.optimizer_bytes / 3)


def test_16_bit_reductions_may_be_an_exchange_with_a_pass_before_and_one_behind(cluster: ClusterSpec) -> None:
    exchanging = msgspec.structs.replace(RUNTIME, gradient_reduce_bytes=2, reduces_by_all_to_all=True)
    found = _state(cluster, Sharding(), Mesh(dp=16), exchanging).cost(Weights(dense=1e9, ffn=0.0, expert=0.0), ALONE)
    group = Group(size=16, ranks_per_node=8)
    exchange_s = _seconds(cluster, Collective.ALL_TO_ALL, 2e9, group)
    local_s = (4 + 2 + 2 + 4 / 16) * 1e9 / cluster.gpu.copy_bytes_per_s
    assert exchange_s + local_s < found.grad_reduce_s < exchange_s + 1.1 * local_s
    wide = msgspec.structs.replace(exchanging, gradient_reduce_bytes=4)
    scattered = _state(cluster, Sharding(), Mesh(dp=16), wide).cost(Weights(dense=1e9, ffn=0.0, expert=0.0), ALONE)
    assert scattered.grad_reduce_s == _seconds(cluster, Collective.REDUCE_SCATTER, 4e9, group)


def test_computation_loses_what_is_measured_beside_collectives_inside_a_node(cluster: ClusterSpec) -> None:
    cost = _state(cluster, Sharding()).cost(DENSE_ALONE, STRATEGY, _layer(1.0))
    compute, window = cluster.profile.interference.slowdowns(nvlink=True)
    assert cost.reduce_slowdown_s == pytest.approx(cost.grad_reduce_s * window * (1 - 1 / compute))
    assert cost.gather_slowdown_s == pytest.approx(cost.param_gather_s * window * (1 - 1 / compute))


@pytest.mark.parametrize("pass_s", [0.0, 1e-5, 1e-4])
def test_computation_loses_no_more_than_all_of_it_is_slowed_by(cluster: ClusterSpec, pass_s: float) -> None:
    exchanging = msgspec.structs.replace(RUNTIME, gradient_reduce_bytes=2, reduces_by_all_to_all=True)
    compute, _ = cluster.profile.interference.slowdowns(nvlink=True)
    plain = _state(cluster, Sharding()).cost(DENSE_ALONE, STRATEGY, _layer(pass_s))
    assert plain.gather_slowdown_s == pytest.approx(pass_s * (compute - 1))
    assert plain.reduce_slowdown_s == pytest.approx(pass_s * (compute - 1))
    exchanged = _state(cluster, Sharding(), Mesh(dp=8), exchanging).cost(DENSE_ALONE, ALONE, _layer(pass_s))
    assert exchanged.reduce_slowdown_s <= pass_s * compute * (1 + 1e-12)


def test_a_backward_in_two_actions_loses_what_one_in_one_does(cluster: ClusterSpec) -> None:
    joined = _layer(1e-4)
    split = msgspec.structs.replace(
        joined, passes=LayerPasses.SPLIT, backward=Terms(), dgrad=Terms(gemm_s=7e-5), wgrad=Terms(gemm_s=3e-5)
    )
    one, two = (_state(cluster, Sharding()).cost(DENSE_ALONE, STRATEGY, cost) for cost in (joined, split))
    assert one.reduce_slowdown_s == pytest.approx(two.reduce_slowdown_s) != 0.0


def test_computation_loses_nothing_beside_collectives_that_it_waits_for(cluster: ClusterSpec) -> None:
    runtime = msgspec.structs.replace(RUNTIME, overlap_gradient_reduce=False, overlap_parameter_gather=False)
    cost = _state(cluster, Sharding(), runtime=runtime).cost(DENSE_ALONE, STRATEGY, _layer(1.0))
    assert cost.grad_reduce_s > 0.0 == cost.reduce_slowdown_s == cost.gather_slowdown_s


def test_passes_around_an_exchange_take_computation_as_long_as_they_last(cluster: ClusterSpec) -> None:
    exchanging = msgspec.structs.replace(RUNTIME, gradient_reduce_bytes=2, reduces_by_all_to_all=True)
    weights, group = Weights(dense=1e9, ffn=0.0, expert=0.0), Group(size=8, ranks_per_node=8)
    found = _state(cluster, Sharding(), Mesh(dp=8), exchanging).cost(weights, ALONE, _layer(10.0))
    exchange_s = _seconds(cluster, Collective.ALL_TO_ALL, 2e9, group)
    compute, window = cluster.profile.interference.slowdowns(nvlink=True)
    passes_s = found.grad_reduce_s - exchange_s
    assert found.reduce_slowdown_s == pytest.approx(passes_s + exchange_s * window * (1 - 1 / compute))


def test_an_exchange_among_copies_costs_no_less_than_one_that_leaves_shards(cluster: ClusterSpec) -> None:
    exchanging = msgspec.structs.replace(RUNTIME, gradient_reduce_bytes=2, reduces_by_all_to_all=True)
    weights = Weights(dense=1e9, ffn=0.0, expert=0.0)
    group = Group(size=8, ranks_per_node=8)
    copied, sharded = (
        _state(cluster, Sharding(zero=zero), Mesh(dp=8), exchanging).cost(weights, ALONE).grad_reduce_s
        for zero in (ZeroStage.NONE, ZeroStage.OPTIMIZER)
    )
    assert copied > sharded + _seconds(cluster, Collective.ALL_GATHER, 2e9, group)


def test_nobody_exchanges_what_nobody_else_has() -> None:
    exchanging = msgspec.structs.replace(RUNTIME, gradient_reduce_bytes=2, reduces_by_all_to_all=True)
    state = _state(load_cluster("h100").with_gpus(1), Sharding(), Mesh(), exchanging)
    assert state.cost(Weights(dense=1e9, ffn=0.0, expert=0.0), ALONE).grad_reduce_s == 0.0


def test_the_norm_may_read_all_gradients_before_the_update(cluster: ClusterSpec) -> None:
    weights, reading = (
        Weights(dense=1e9, ffn=0.0, expert=0.0),
        msgspec.structs.replace(RUNTIME, norm_reads_gradients=True),
    )
    without, found = (_state(cluster, Sharding(), Mesh(dp=16), one).cost(weights, ALONE) for one in (RUNTIME, reading))
    read_s = 4e9 / 16 / cluster.gpu.copy_bytes_per_s
    assert read_s < found.optimizer_s - without.optimizer_s < 1.1 * read_s


def test_an_update_in_one_pass_is_as_fast_as_adding_a_residual(cluster: ClusterSpec) -> None:
    weights = Weights(dense=1e9, ffn=0.0, expert=0.0)
    found = _state(cluster, Sharding(), Mesh(dp=16), msgspec.structs.replace(RUNTIME, one_pass_update=True))
    work = MemoryWork(kernel=MemoryKernel.RESIDUAL, read_bytes=16e9 / 16, write_bytes=14e9 / 16)
    assert found.cost(weights, ALONE).optimizer_s == pytest.approx(operator_timing(work, cluster).time_s)
