from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.formulas.interference import between_nodes
from meshwright.costmodel.formulas.stragglers import slowest_gpu_factor
from meshwright.costmodel.hardware import Basis, ClusterSpec, SmShare
from meshwright.costmodel.layer_cost import (
    LayerCost,
    Terms,
    basis_seconds,
    host_terms_s,
    layer_cost,
    pass_terms,
    problem_of,
    timing,
)
from meshwright.costmodel.layer_passes import LayerPasses
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.operator_time import host_time_s
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    Collective,
    CollectiveWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    Operator,
    Pass,
    Precision,
)
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Recompute
from meshwright.hardware_profiles import load_cluster

ATTENTION = AttentionSpec(num_heads=16, num_kv_heads=8, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=8192))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=8, top_k=2, intermediate=4096))
RUNTIME = RuntimeSpec(name="plain", source="test")


@pytest.fixture
def cluster() -> ClusterSpec:
    return load_cluster("h100", num_gpus=8)


def _program(layer: LayerSpec, strategy: LayerStrategy, seq_len: int = 8192) -> LayerProgram:
    return build_layer(
        layer, ProgramSetting(hidden=2048, micro_batch=1, seq_len=seq_len, strategy=strategy, gpus_per_node=8)
    )


def _product(name: str, size: int) -> Operator:
    work = GemmWork(m=size, n=size, k=size)
    return Operator(name=name, module="m", phase=Pass.FORWARD, work=work, reads=("a",), writes=(name,))


def test_terms_add_up_apart_from_the_hidden_ones() -> None:
    terms = Terms(gemm_s=1.0, exposed_nvlink_s=2.0, exposed_pcie_s=0.5, host_s=0.25, hidden_nvlink_s=8.0)
    assert terms.total_s == 3.75
    assert terms.exposed_s == 2.5
    assert (terms + terms.scaled(2.0)).total_s == pytest.approx(3 * 3.75)
    assert (terms + terms.scaled(2.0)).hidden_nvlink_s == pytest.approx(24.0)


def test_a_pass_is_the_sum_of_its_operators(cluster: ClusterSpec) -> None:
    operators = (_product("x", 4096), _product("y", 8192))
    terms = pass_terms(operators, cluster, RUNTIME)
    assert terms.gemm_s == pytest.approx(sum(timing(op.work, cluster, RUNTIME).time_s for op in operators))
    assert terms.total_s == terms.gemm_s


def test_small_operators_wait_for_the_host(cluster: ClusterSpec) -> None:
    operators = tuple(_product(f"x{index}", 64) for index in range(10))
    alone_s = 10 * timing(operators[0].work, cluster, RUNTIME).time_s
    issue_s = 10 * host_time_s(operators[0].work, cluster.profile, cuda_graphs=False)
    assert issue_s > alone_s
    assert pass_terms(operators, cluster, RUNTIME).total_s == pytest.approx(issue_s)


def test_a_slow_host_issues_more_operators_for_a_kernel(cluster: ClusterSpec) -> None:
    operators = tuple(_product(f"x{index}", 64) for index in range(10))
    slow = msgspec.structs.replace(RUNTIME, host_operators_per_kernel=3.0)
    fast_s, slow_s = (pass_terms(operators, cluster, runtime).total_s for runtime in (RUNTIME, slow))
    assert slow_s == pytest.approx(3.0 * fast_s)
    graphs = msgspec.structs.replace(slow, cuda_graphs=True)
    assert pass_terms(operators, cluster, graphs).total_s < fast_s


def test_only_forwards_through_experts_wait_for_routing(cluster: ClusterSpec) -> None:
    waiting = msgspec.structs.replace(RUNTIME, routing_wait_s=0.5)
    dense, moe = (
        layer_cost(_program(layer, LayerStrategy()), Recompute.NONE, cluster, waiting) for layer in (DENSE, MOE)
    )
    assert dense.forward.host_s == pytest.approx(0.0)
    assert isinstance(MOE.ffn, MoeFfnSpec)
    assert moe.forward.host_s == pytest.approx(0.5 * MOE.ffn.num_experts)
    assert moe.backward.host_s == pytest.approx(0.0)
    again = layer_cost(_program(MOE, LayerStrategy()), Recompute.FULL, cluster, waiting)
    assert again.backward.host_s == pytest.approx(0.5 * MOE.ffn.num_experts)


def _operators_s(cost: Terms) -> float:
    return cost.gemm_s + cost.grouped_gemm_s + cost.attention_s + cost.memory_bound_s + cost.recompute_s


def _cost(strategy: LayerStrategy, policy: Recompute, cluster: ClusterSpec, layer: LayerSpec = MOE) -> LayerCost:
    return layer_cost(_program(layer, strategy), policy, cluster, RUNTIME)


@pytest.mark.parametrize("policy", list(Recompute))
def test_the_two_halves_of_a_backward_are_the_same_work(policy: Recompute, cluster: ClusterSpec) -> None:
    program = _program(MOE, LayerStrategy(sp=8, ep=8))
    joined, split = (
        layer_cost(program, policy, cluster, RUNTIME, passes) for passes in (LayerPasses.JOINED, LayerPasses.SPLIT)
    )
    assert _operators_s(split.dgrad) + _operators_s(split.wgrad) == pytest.approx(_operators_s(joined.backward))
    assert split.wgrad.recompute_s == 0.0
    assert split.wgrad == joined.wgrad
    assert split.dgrad.total_s + split.wgrad.total_s >= joined.backward.total_s * (1 - 1e-9)
    assert joined.dgrad == split.backward == Terms()


@pytest.mark.parametrize("layer", [DENSE, MOE])
@pytest.mark.parametrize("policy", list(Recompute))
def test_recomputing_trades_time_for_memory(policy: Recompute, layer: LayerSpec, cluster: ClusterSpec) -> None:
    keeps = _cost(LayerStrategy(), Recompute.NONE, cluster, layer)
    drops = _cost(LayerStrategy(), policy, cluster, layer)
    assert drops.forward == keeps.forward
    assert drops.kept_bytes <= keeps.kept_bytes
    assert drops.backward.total_s >= keeps.backward.total_s
    assert drops.weights == keeps.weights


def test_full_recomputation_keeps_the_input_alone(cluster: ClusterSpec) -> None:
    cost = _cost(LayerStrategy(), Recompute.FULL, cluster, DENSE)
    assert cost.kept_bytes == 2 * 8192 * 2048
    again_s, residual_s = cost.backward.recompute_s, cost.forward.total_s - cost.backward.recompute_s
    assert 0.9 * cost.forward.total_s < again_s < cost.forward.total_s
    assert residual_s > 0


@pytest.mark.parametrize(
    ("strategy", "link"), [(LayerStrategy(tp=8, ffn_tp=8), "nvlink"), (LayerStrategy(tp=16, ffn_tp=16), "network")]
)
def test_communication_counts_on_the_link_it_uses(strategy: LayerStrategy, link: str, cluster: ClusterSpec) -> None:
    other = {"nvlink": "network", "network": "nvlink"}[link]
    forward = layer_cost(_program(DENSE, strategy), Recompute.NONE, cluster.with_gpus(16), RUNTIME).forward
    assert getattr(forward, f"exposed_{link}_s") > 0
    assert getattr(forward, f"exposed_{other}_s") == getattr(forward, f"hidden_{other}_s") == 0


def test_overlap_moves_time_from_exposed_to_hidden(cluster: ClusterSpec) -> None:
    strategy = LayerStrategy(tp=8, ffn_tp=8)
    fused = msgspec.structs.replace(RUNTIME, overlap=msgspec.convert({"tensor": "fused"}, LayerOverlap))
    plain = layer_cost(_program(DENSE, strategy), Recompute.NONE, cluster, RUNTIME).forward
    hidden = layer_cost(_program(DENSE, strategy), Recompute.NONE, cluster, fused).forward
    assert hidden.hidden_nvlink_s + hidden.exposed_nvlink_s == pytest.approx(plain.exposed_nvlink_s)
    assert hidden.hidden_nvlink_s > 0
    assert hidden.total_s < plain.total_s


def test_a_frameworks_own_attention_takes_a_multiple(cluster: ClusterSpec) -> None:
    slow = msgspec.structs.replace(RUNTIME, attention_time_factor=2.0)
    work = next(op.work for op in _program(DENSE, LayerStrategy()).forward if isinstance(op.work, AttentionWork))
    assert timing(work, cluster, slow).time_s == pytest.approx(2.0 * timing(work, cluster, RUNTIME).time_s)
    assert timing(work, cluster, slow).basis is Basis.EXTRAPOLATED


def test_the_basis_accounts_for_all_operators(cluster: ClusterSpec) -> None:
    program = _program(MOE, LayerStrategy(sp=8, ep=8))
    cost = layer_cost(program, Recompute.FULL, cluster, RUNTIME)
    seconds = basis_seconds(program, Recompute.FULL, cluster, RUNTIME)
    total_s = sum(
        _operators_s(terms) + terms.exposed_s + terms.hidden_nvlink_s + terms.hidden_network_s
        for terms in (cost.forward, cost.backward)
    )
    assert sum(seconds.values()) == pytest.approx(total_s)


# What frameworks do differently.


def test_all_wait_for_the_slowest_gpu(cluster: ClusterSpec) -> None:
    operators = (_product("x", 8192),)
    uneven = msgspec.structs.replace(RUNTIME, gpu_speed_deviation=0.02)
    even_s, uneven_s = (pass_terms(operators, cluster, runtime).total_s for runtime in (RUNTIME, uneven))
    assert uneven_s == pytest.approx(even_s * slowest_gpu_factor(0.02, 8))


def test_modules_in_a_graph_are_launched_faster(cluster: ClusterSpec) -> None:
    operators = tuple(_product(f"x{index}", 64) for index in range(10))
    graphed = msgspec.structs.replace(RUNTIME, graphed_modules=("m",))
    elsewhere = msgspec.structs.replace(RUNTIME, graphed_modules=("other",))
    eager_s, graph_s, other_s = (
        pass_terms(operators, cluster, runtime).host_s for runtime in (RUNTIME, graphed, elsewhere)
    )
    assert graph_s < eager_s == other_s


def test_each_expert_is_a_launch_of_its_own_where_the_framework_loops(cluster: ClusterSpec) -> None:
    work = GroupedGemmWork(num_groups=64, rows=640.0, n=128, k=128)
    operator = Operator(name="x", module="m", phase=Pass.DGRAD, work=work, reads=("a",), writes=("x",))
    loop = msgspec.structs.replace(RUNTIME, launches_per_expert=1)
    grouped_s, loop_s = (host_terms_s((operator,), 0.0, cluster, runtime) for runtime in (RUNTIME, loop))
    assert loop_s == pytest.approx(64 * grouped_s)


@pytest.mark.parametrize(
    ("changes", "precision", "factor"),
    [
        ({"gathers_fp8": True}, Precision.FP8, 0.5),
        ({"gathers_fp8": True}, Precision.BF16, 1.0),
        ({"gathers_each_product": True}, Precision.BF16, 3.0),
    ],
)
def test_what_tensor_parallel_ranks_gather(changes: dict[str, bool], precision: Precision, factor: float) -> None:
    setting = ProgramSetting(
        hidden=2048,
        micro_batch=1,
        seq_len=8192,
        strategy=LayerStrategy(tp=4, ffn_tp=4),
        gpus_per_node=8,
        precision=precision,
    )

    def gathered(one: ProgramSetting) -> float:
        works = {op.name: op.work for op in build_layer(DENSE, one).forward}
        work = works["all_gather.ln1_out"]
        assert isinstance(work, CollectiveWork)
        return work.num_bytes

    assert gathered(msgspec.structs.replace(setting, **changes)) == factor * gathered(setting)


def test_copy_engines_slow_computation_less(cluster: ClusterSpec) -> None:
    overlap = LayerOverlap(tensor=OverlapLevel.INTER_OPERATOR)
    plain = msgspec.structs.replace(RUNTIME, overlap=overlap)
    engines = msgspec.structs.replace(plain, copy_engine_overlap=True)
    program = _program(DENSE, LayerStrategy(tp=8, ffn_tp=8))
    plain_s, engines_s = (
        layer_cost(program, Recompute.NONE, cluster, runtime).backward.total_s for runtime in (plain, engines)
    )
    assert engines_s < plain_s


@pytest.mark.parametrize("time_factor", [1.0, 2.5])
def test_traffic_between_nodes_is_on_the_share_of_the_sms_too(time_factor: float) -> None:
    """Fewer SMs slow computation less, but for longer: the cost between nodes has both from one share."""
    cluster = load_cluster("h100", num_gpus=16)
    measured = cluster.profile.interference
    share = SmShare(num_sms=8, time_factor=time_factor, compute_slowdown=1.2, communication_slowdown=4.0)
    runtime = msgspec.structs.replace(RUNTIME, overlap=LayerOverlap(data=OverlapLevel.INTER_OPERATOR))
    work = CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=2.0**28, group=Group(size=16, ranks_per_node=8))
    operator = Operator(
        name="gather", module="m", phase=Pass.FORWARD, work=work, reads=("a",), writes=("b",), axis=Axis.DATA
    )
    inside = CollectiveWork(
        collective=Collective.ALL_GATHER, num_bytes=2.0**28, group=Group(size=16, ranks_per_node=16)
    )
    alone_s, inside_s = (timing(one, cluster, runtime).time_s for one in (work, inside))
    problem = problem_of((operator,), cluster, runtime, share)
    compute, communication = between_nodes(
        (1.2, 4.0),
        (measured.network_compute_slowdown, measured.network_communication_slowdown),
        time_factor * inside_s / alone_s,
    )
    assert problem.loss[2] == pytest.approx(1.0 - 1.0 / compute)
    assert problem.stretch[2] == pytest.approx(communication)


def test_forwarding_waits_for_the_last_chunk_only() -> None:
    cluster = load_cluster("h100", num_gpus=16)
    program = _program(MOE, LayerStrategy(ep=8, dispatch=Dispatch.ALL_TO_ALL_DEDUP), 4096)
    many = build_layer(
        msgspec.structs.replace(MOE, ffn=MoeFfnSpec(num_experts=16, top_k=4, intermediate=4096)),
        ProgramSetting(
            hidden=2048,
            micro_batch=1,
            seq_len=4096,
            strategy=LayerStrategy(ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
            gpus_per_node=8,
        ),
    )
    inside = problem_of(program.forward, cluster, RUNTIME)
    across = problem_of(many.forward, cluster, RUNTIME)
    times = dict(zip((op.name for op in across.operators), across.time_s, strict=True))
    assert times["dispatch.nvlink"] < times["dispatch.network"]
    assert all(not op.name.endswith(".network") for op in inside.operators)
