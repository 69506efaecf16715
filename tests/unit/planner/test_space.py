from __future__ import annotations

from itertools import pairwise, product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.simulate import ScheduleKind, check_combination
from meshwright.costmodel.strategy import AxisOrder, Mesh, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.space import (
    MAX_MICRO_BATCH,
    MAX_VIRTUAL_STAGES,
    RULES,
    LayerShape,
    Problem,
    divisors,
    even_split,
    layer_shapes,
    meshes,
    orders,
    pipelines,
    shardings,
)

ATTENTION = AttentionSpec(num_heads=24, num_kv_heads=8, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=8192))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=16, top_k=2, intermediate=4096))


def _problem(
    *fixes: str,
    layer: LayerSpec = MOE,
    num_layers: int = 12,
    num_gpus: int = 16,
    gpus_per_node: int = 8,
    global_batch: int = 64,
    seq_len: int = 4096,
) -> Problem:
    cluster = msgspec.structs.replace(load_cluster("h100"), gpus_per_node=gpus_per_node, num_gpus=num_gpus)
    return Problem(
        model=ModelSpec(name="made-up", hidden=1024, vocab=4096, layers=(layer,) * num_layers),
        cluster=cluster,
        workload=Workload(global_batch=global_batch, seq_len=seq_len),
        fixes=parse_fixes(fixes),
    )


def _shapes(problem: Problem, field: str) -> set[int]:
    return {getattr(shape, field) for shape in layer_shapes(problem)}


def _pipes(problem: Problem, pp: int, num_micro_batches: int) -> set[tuple[ScheduleKind, int]]:
    mesh = Mesh(pp=pp, dp=problem.cluster.num_gpus // pp)
    return set(pipelines(problem, mesh, num_micro_batches))


# Laws of the whole space.


@settings(max_examples=60)
@given(
    num_nodes=st.integers(1, 6),
    gpus_per_node=st.sampled_from((1, 2, 3, 4, 6, 8)),
    global_batch=st.integers(1, 96),
    seq_len=st.sampled_from((1000, 4096, 6144, 32768)),
    layer=st.sampled_from((DENSE, MOE)),
    num_layers=st.integers(1, 14),
)
def test_every_point_divides_what_it_splits(
    num_nodes: int, gpus_per_node: int, global_batch: int, seq_len: int, layer: LayerSpec, num_layers: int
) -> None:
    problem = _problem(
        layer=layer,
        num_layers=num_layers,
        num_gpus=num_nodes * gpus_per_node,
        gpus_per_node=gpus_per_node,
        global_batch=global_batch,
        seq_len=seq_len,
    )
    for shape in layer_shapes(problem):
        assert ATTENTION.num_heads % shape.group == 0
        assert seq_len % (shape.group * shape.cp) == 0
        assert shape.group <= gpus_per_node
        if layer is MOE:
            assert 16 % shape.ep == 4096 % shape.etp == 0
        for mesh, num_micro_batches in meshes(problem, shape):
            assert mesh.num_gpus == problem.cluster.num_gpus
            assert num_micro_batches * mesh.dp * shape.micro_batch == global_batch
            assert mesh.pp <= num_layers
            for kind, virtual_stages in pipelines(problem, mesh, num_micro_batches):
                check_combination(kind, mesh.pp, num_micro_batches, virtual_stages)
                assert virtual_stages == 1 or even_split(problem, mesh.pp, virtual_stages)


def test_no_mesh_is_forgotten() -> None:
    """Against a plain loop over all degrees."""
    problem = _problem(num_gpus=12, gpus_per_node=6, global_batch=24, seq_len=6144)
    shape = LayerShape(group=2, cp=1, ep=2, etp=1, micro_batch=2)
    found = {(mesh.pp, mesh.dp, number) for mesh, number in meshes(problem, shape)}
    legal = {
        (pp, dp, 24 // (2 * dp))
        for pp, dp in product(range(1, 13), repeat=2)
        if pp * dp * 2 == 12 and 24 % (2 * dp) == 0
    }
    assert found == legal
    assert found


@pytest.mark.parametrize("number", [1, 2, 12, 36, 97, 1440])
def test_divisors(number: int) -> None:
    assert divisors(number) == tuple(d for d in range(1, number + 1) if number % d == 0)


# Even splits.


@settings(max_examples=200)
@given(num_layers=st.integers(1, 40), pp=st.integers(1, 8), virtual_stages=st.integers(2, 4))
def test_an_even_split_is_even(num_layers: int, pp: int, virtual_stages: int) -> None:
    split = even_split(_problem(num_layers=num_layers), pp, virtual_stages)
    stages = pp * virtual_stages
    if not split:
        assert num_layers < 2 * stages
        return
    assert (split[0], split[-1], len(split)) == (0, num_layers, stages + 1)
    sizes = [end - start for start, end in pairwise(split)]
    if num_layers % stages == 0:
        assert len(set(sizes)) == 1
        return
    counted = [sizes[0] + 1, *sizes[1:-1], sizes[-1] + 1]
    assert max(counted) - min(counted) <= 1
    assert min(sizes) >= 0
    assert all(size >= 1 for size in sizes[1:-1])


# Each rule binds, and a pinned choice overrides it.


def test_the_group_stays_inside_a_node_unless_pinned() -> None:
    assert _shapes(_problem(gpus_per_node=4), "group") == {1, 2, 4}
    assert _shapes(_problem("tp=8", gpus_per_node=4), "group") == {8}
    assert _shapes(_problem("tp=2,sp=4", gpus_per_node=4), "group") == {8}


def test_context_shards_are_long_unless_pinned() -> None:
    assert _shapes(_problem(seq_len=8192), "cp") == {1}
    assert _shapes(_problem(seq_len=32768), "cp") == {1, 2, 4}
    assert _shapes(_problem("cp=8", seq_len=32768), "cp") == {8}
    assert _shapes(_problem("attention=cp-ring", seq_len=32768), "cp") == {2, 4, 8, 16}


def test_experts_are_sliced_inside_the_node_and_not_thin() -> None:
    slices = {(shape.group, shape.ep, shape.etp) for shape in layer_shapes(_problem())}
    assert max(etp for *_, etp in slices) == 4  # 4096 columns / 4 = 1024
    assert (1, 1, 4) in slices, "over ranks of dp, too"
    assert all(ep * etp <= 8 for _, ep, etp in slices if etp > 1)
    assert {ep for _, ep, etp in slices if etp == 1} == {1, 2, 4, 8, 16}
    assert _shapes(_problem("etp=8"), "etp") == {8}
    pinned = {(shape.group, shape.ep) for shape in layer_shapes(_problem("etp=8"))}
    assert (1, 16) in pinned


def test_micro_batches_are_powers_of_two_with_few_tokens_unless_pinned() -> None:
    assert _shapes(_problem("tp=1,sp=1", seq_len=4096), "micro_batch") == {1, 2, 4, 8}
    assert _shapes(_problem("tp=1,sp=1", seq_len=2048), "micro_batch") == {1, 2, 4, 8, MAX_MICRO_BATCH}
    assert _shapes(_problem("tp=1,sp=1,cp=1", seq_len=65536), "micro_batch") == {1}
    assert _shapes(_problem("mbs=3"), "micro_batch") == {3}


def test_interleaving_goes_up_to_a_number_of_virtual_stages() -> None:
    problem = _problem(layer=DENSE, num_layers=2 * 2 * MAX_VIRTUAL_STAGES * 2)
    numbers = {virtual for kind, virtual in _pipes(problem, 2, 64) if kind is ScheduleKind.INTERLEAVED}
    assert max(numbers) == MAX_VIRTUAL_STAGES


def test_an_interleaved_split_divides_unless_none_does() -> None:
    dividing = {virtual for kind, virtual in _pipes(_problem(num_layers=12), 2, 64) if kind is ScheduleKind.INTERLEAVED}
    assert dividing == {2, 3, 6, 7}  # 12 = 2 x 2 x 3, ...; 12 + 2 = 2 x 7
    rounded = {virtual for kind, virtual in _pipes(_problem(num_layers=11), 4, 64) if kind is ScheduleKind.INTERLEAVED}
    assert rounded == {2, 3}  # neither 11 nor 13 divides by 4
    assert (ScheduleKind.INTERLEAVED, 4) in _pipes(_problem("vp=4", num_layers=12), 2, 64)


def test_few_micro_batches_leave_1f1b_alone_unless_pinned() -> None:
    assert _pipes(_problem(), 4, 3) == {(ScheduleKind.ONE_F_ONE_B, 1)}
    assert _pipes(_problem("schedule=zb-v"), 4, 3) == {(ScheduleKind.ZB_V, 2)}
    assert {kind for kind, _ in _pipes(_problem(), 4, 4)} >= {ScheduleKind.INTERLEAVED, ScheduleKind.ZB_V}


def test_dualpipe_needs_two_micro_batches_a_stage() -> None:
    assert ScheduleKind.DUALPIPE_V not in {kind for kind, _ in _pipes(_problem(), 4, 7)}
    assert ScheduleKind.DUALPIPE_V in {kind for kind, _ in _pipes(_problem(), 4, 8)}


def test_zb_h1_and_gpipe_are_only_pinned() -> None:
    assert {kind for kind, _ in _pipes(_problem(), 2, 64)} == {
        ScheduleKind.ONE_F_ONE_B,
        ScheduleKind.INTERLEAVED,
        ScheduleKind.ZB_V,
        ScheduleKind.DUALPIPE_V,
    }
    for name in ("zb-h1", "gpipe"):
        assert _pipes(_problem(f"schedule={name}"), 2, 64) == {(ScheduleKind(name), 1)}


def test_one_stage_has_one_schedule() -> None:
    assert _pipes(_problem(), 1, 64) == {(ScheduleKind.ONE_F_ONE_B, 1)}


def test_sharded_gradients_and_parameters_need_one_stage_unless_pinned() -> None:
    def stages(problem: Problem, pp: int) -> set[ZeroStage]:
        return {sharding.zero for sharding in shardings(problem, Mesh(pp=pp, dp=16 // pp))}

    assert stages(_problem(), 1) == {ZeroStage.OPTIMIZER, ZeroStage.GRADIENTS, ZeroStage.PARAMETERS}
    assert stages(_problem(), 2) == {ZeroStage.OPTIMIZER}
    assert stages(_problem("zero=3"), 2) == {ZeroStage.PARAMETERS}
    assert stages(_problem("zero=0"), 1) == {ZeroStage.NONE}


def test_the_optimizer_may_live_on_the_host() -> None:
    for problem in (_problem(), _problem("zero=2")):
        assert {sharding.offload_optimizer for sharding in shardings(problem, Mesh(dp=16))} == {False, True}


def test_rank_orders_are_told_apart_where_stages_can_share_a_node() -> None:
    both, one = (AxisOrder.PP_OUTERMOST, AxisOrder.DP_OUTERMOST), (AxisOrder.PP_OUTERMOST,)
    problem = _problem()
    assert orders(problem, Mesh(pp=4, dp=2, tp=2)) == both
    assert orders(problem, Mesh(pp=2, dp=1, tp=8)) == one
    assert orders(problem, Mesh(dp=16)) == one
    assert orders(problem, Mesh(pp=4, dp=2, tp=2, ep=4)) == one, "experts folded over dp need neighbouring replicas"


@pytest.mark.parametrize(
    ("fix", "field", "value"),
    [("tp=2,sp=2", "group", 4), ("ep=8", "ep", 8), ("cp=2", "cp", 2), ("mbs=2", "micro_batch", 2)],
)
def test_pinned_shapes_are_the_only_ones(fix: str, field: str, value: int) -> None:
    assert _shapes(_problem(fix, seq_len=32768), field) == {value}


@pytest.mark.parametrize(("fix", "field", "value"), [("pp=4", "pp", 4), ("dp=2", "dp", 2)])
def test_pinned_degrees_are_the_only_ones(fix: str, field: str, value: int) -> None:
    problem = _problem(fix)
    found = {getattr(mesh, field) for shape in layer_shapes(problem) for mesh, _ in meshes(problem, shape)}
    assert found == {value}


def test_data_parallel_attention_has_no_group_and_experts_may_still_fold() -> None:
    problem = _problem("attention=dp")
    assert _shapes(problem, "group") == _shapes(problem, "cp") == {1}
    assert max(_shapes(problem, "ep")) == 16


@pytest.mark.parametrize(("ffn", "expected"), [("ep", {2, 4, 8, 16}), ("tp", {1})])
def test_the_kind_of_ffn_bounds_expert_parallelism(ffn: str, expected: set[int]) -> None:
    assert _shapes(_problem(f"ffn={ffn}"), "ep") == expected


def test_dense_models_have_no_expert_degrees() -> None:
    assert _shapes(_problem(layer=DENSE), "ep") == {1}
    assert _shapes(_problem("ep=2", layer=DENSE), "ep") == set()


def test_what_no_degree_divides_leaves_nothing() -> None:
    assert _shapes(_problem("tp=5"), "group") == set()
    alone = LayerShape(group=1, cp=1, ep=1, etp=1, micro_batch=1)
    assert list(meshes(_problem(global_batch=1, num_layers=1), alone)) == [], (
        "16 replicas for one sequence, or one layer"
    )
    assert [mesh.pp for mesh, _ in meshes(_problem(global_batch=1, num_layers=16), alone)] == [16]


def test_the_rules_are_said() -> None:
    assert len(RULES) == len(set(RULES)) >= 10
