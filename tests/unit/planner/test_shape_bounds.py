from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import msgspec
import pytest

from meshwright.costmodel.data_parallel import Sharding, StateModel
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import SPLIT_BACKWARD
from meshwright.costmodel.strategy import Mesh, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.choice import Choice, EndCost
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.point import PointProblem
from meshwright.planner.point_problem import point_problem
from meshwright.planner.shape_bounds import ShapeBound, shape_bounds
from meshwright.planner.space import LayerShape, OuterPoint, Problem, layer_shapes, meshes

RUNTIME = load_runtime("meshwright")
ATTENTION = AttentionSpec(num_heads=16, num_kv_heads=4, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=8192))
MOE = LayerSpec(
    attention=ATTENTION, ffn=MoeFfnSpec(num_experts=64, top_k=4, intermediate=1024, shared_intermediate=2048)
)
TOLERANCE = 1 + 1e-9


def _problem(*fixes: str, mtp_depth: int = 0) -> Problem:
    return Problem(
        model=ModelSpec(name="made-up", hidden=2048, vocab=32000, layers=(DENSE, MOE, MOE, MOE), mtp_depth=mtp_depth),
        cluster=load_cluster("h100", num_gpus=16),
        workload=Workload(global_batch=64, seq_len=4096),
        fixes=parse_fixes(fixes),
    )


def _bounds(problem: Problem, shape: LayerShape) -> tuple[ShapeBound, ...]:
    return shape_bounds(problem, RUNTIME, shape)


def _cases(
    problem: Problem, kind: ScheduleKind, zero: ZeroStage
) -> Iterator[tuple[ShapeBound, OuterPoint, PointProblem]]:
    """Every shape with its bound, its first mesh and all choices of its layers."""
    every = [(shape, bound) for shape in layer_shapes(problem) for bound in _bounds(problem, shape)]
    for shape, bound in every:
        for plain, num_micro_batches in list(meshes(problem, shape))[:1]:
            mesh = msgspec.structs.replace(plain, tp=bound.split[0], sp=bound.split[1])
            point = OuterPoint(
                shape=shape,
                mesh=mesh,
                schedule=kind,
                virtual_stages=1,
                sharding=Sharding(zero=zero),
                num_micro_batches=num_micro_batches,
            )
            inner = point_problem(problem, RUNTIME, point)
            assert inner is not None
            yield bound, point, inner


@pytest.mark.parametrize(
    ("kind", "zero", "fixes"),
    [
        (ScheduleKind.ONE_F_ONE_B, ZeroStage.OPTIMIZER, ("mbs=1",)),
        (ScheduleKind.ZB_H1, ZeroStage.OPTIMIZER, ("mbs=1", "ep=8")),
        (ScheduleKind.ONE_F_ONE_B, ZeroStage.PARAMETERS, ("mbs=1", "ep=8")),
        (ScheduleKind.ONE_F_ONE_B, ZeroStage.OPTIMIZER, ("mbs=1", "recompute=full", "ep=8")),
    ],
)
def test_no_choice_of_a_shape_is_faster_than_its_bound(
    kind: ScheduleKind, zero: ZeroStage, fixes: tuple[str, ...]
) -> None:
    problem = _problem(*fixes)
    cases = list(_cases(problem, kind, zero))
    assert len(cases) >= 4
    for bound, point, inner in cases:
        state = StateModel(cluster=problem.cluster, mesh=point.mesh, sharding=point.sharding, runtime=RUNTIME)
        layers = bound.with_state(problem.model, state)
        for minimum, kind_index in zip(layers, inner.layer_types, strict=True):
            for choice in inner.choices[kind_index]:
                _check(minimum, choice, point.schedule)


def _check(minimum: object, way: Choice | EndCost, kind: ScheduleKind) -> None:
    """Of the passes those that the schedule runs."""
    split_s = way.forward_s + way.dgrad_s + way.wgrad_s
    passes = {"through_s": way.forward_s + way.dgrad_s, "split_s": split_s}
    if kind is ScheduleKind.DUALPIPE_V:
        passes["overlapped_s"] = split_s - way.overlap_saving_s
    if kind not in SPLIT_BACKWARD:
        passes = {"joined_s": way.forward_s + way.backward_s}
    found = {
        "forward_s": way.forward_s,
        **passes,
        "gather_s": way.param_gather_s,
        "reduce_s": way.grad_reduce_s,
        "optimizer_s": way.optimizer_s,
    }
    for name, seconds in found.items():
        assert getattr(minimum, name) <= seconds * TOLERANCE + 1e-15, name


@pytest.mark.parametrize("mtp_depth", [0, 1])
def test_the_ends_of_a_shape_are_those_of_its_meshes(mtp_depth: int) -> None:
    """Prediction modules share the experts of the layers: alone with all of them they would be far slower."""
    problem = _problem("mbs=1", mtp_depth=mtp_depth)
    for bound, point, inner in _cases(problem, ScheduleKind.ONE_F_ONE_B, ZeroStage.OPTIMIZER):
        best_case = point_problem(problem, RUNTIME, point, best_case=True)
        assert best_case is not None
        ends, bests = (inner.first, inner.last), (best_case.first, best_case.last)
        for minimum, end, best in zip(bound.ends, ends, bests, strict=True):
            assert end is not None
            assert best is not None
            _check(msgspec.structs.replace(minimum, gather_s=0.0, reduce_s=0.0, optimizer_s=0.0), end, inner.kind)
            assert minimum.joined_s == pytest.approx(best.forward_s + best.backward_s, rel=2e-2)


@pytest.mark.parametrize(("zero", "offload"), list(product(ZeroStage, (False, True))))
@pytest.mark.parametrize("mtp_depth", [0, 1])
def test_the_bound_of_state_is_the_mean_of_the_leanest_layers(zero: ZeroStage, offload: bool, mtp_depth: int) -> None:
    problem = _problem("mbs=1", "ep=8", mtp_depth=mtp_depth)
    for bound, point, inner in _cases(problem, ScheduleKind.ONE_F_ONE_B, zero):
        sharding = msgspec.structs.replace(point.sharding, offload_optimizer=offload)
        moved = point_problem(problem, RUNTIME, msgspec.structs.replace(point, sharding=sharding))
        assert moved is not None
        leanest = [min(choice.static_bytes for choice in choices) for choices in moved.choices]
        mean_bytes = (sum(leanest[kind] for kind in inner.layer_types) + _ends_bytes(moved)) / point.mesh.pp
        assert bound.static_bytes(_state(problem, point.mesh, sharding)) == pytest.approx(mean_bytes)


def _ends_bytes(inner: PointProblem) -> float:
    return sum(end.static_bytes for end in (inner.first, inner.last) if end is not None)


def _state(problem: Problem, mesh: Mesh, sharding: Sharding) -> StateModel:
    return StateModel(cluster=problem.cluster, mesh=mesh, sharding=sharding, runtime=RUNTIME)


def test_a_shape_without_a_legal_strategy_has_no_bound() -> None:
    layer = msgspec.structs.replace(DENSE, attention=msgspec.structs.replace(ATTENTION, num_kv_heads=16, num_heads=48))
    problem = _problem()
    model = msgspec.structs.replace(problem.model, layers=(layer,))
    cluster = msgspec.structs.replace(problem.cluster, gpus_per_node=24, num_gpus=24)
    odd = msgspec.structs.replace(
        problem, model=model, cluster=cluster, workload=Workload(global_batch=24, seq_len=4608)
    )
    bounds = {shape.group: _bounds(odd, shape) for shape in layer_shapes(odd)}
    assert not bounds[24], "16 key-value heads over 24 ranks"
    assert bounds[8]


def test_each_split_of_embedding_and_head_has_a_bound_the_fastest_first() -> None:
    problem = _problem()
    shape = next(shape for shape in layer_shapes(problem) if shape.group == 4)
    bounds = {bound.split: bound for bound in _bounds(problem, shape)}
    assert set(bounds) == {(1, 4), (4, 1)}
    mesh = Mesh(tp=4, dp=4, pp=1)
    whole, quarter = (
        bounds[split].end_bytes(_state(problem, mesh, Sharding(zero=ZeroStage.OPTIMIZER))) for split in ((1, 4), (4, 1))
    )
    # 16-bit weights and 32-bit gradients, 2 + 4 bytes each; 12 of optimizer state over the 16 or 4 ranks with the same.
    # Every rank has all of the norm.
    assert whole == pytest.approx((6 + 12 / 16) * (2 * 32_000 + 1) * 2_048)
    assert quarter == pytest.approx((6 + 12 / 4) * (2 * 32_000 / 4 + 1) * 2_048)
