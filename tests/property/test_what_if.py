"""Laws of what-ifs: what changes nothing changes nothing, and more of a good thing is never slower."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime, runtime_names
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.changes import CHANGES
from meshwright.planner.plan import Plan, SearchRecord
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.what_if import Baseline, answer, baseline_of, changed

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=4, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=4096))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=16, top_k=4, intermediate=2048))
PIPES = (
    (ScheduleKind.ONE_F_ONE_B, 1, 1),
    (ScheduleKind.ONE_F_ONE_B, 4, 1),
    (ScheduleKind.INTERLEAVED, 2, 2),
    (ScheduleKind.ZB_V, 2, 2),
)
CERTIFICATE = SearchRecord(
    candidates=0,
    rejected=0,
    pruned=0,
    solved=0,
    objective_s=0.0,
    lower_bound_s=0.0,
    gap=0.0,
    order_gap=0.0,
    solve_time_s=0.0,
    space="",
    solvers=(),
)
SLACK = 1 + 1e-9


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Four layers on 16 GPUs, whose orders list scheduling finds."""
    kind, pp, virtual_stages = draw(st.sampled_from(PIPES))
    tp, sp = draw(st.sampled_from(((1, 1), (2, 1), (1, 4))))
    dp = 16 // (pp * tp * sp)
    ep = draw(st.sampled_from([degree for degree in (1, 4, 16) if (dp * tp * sp) % degree == 0]))
    layers = tuple(draw(st.lists(st.sampled_from((DENSE, MOE)), min_size=4, max_size=4)))
    recompute = draw(st.sampled_from(Recompute))
    dispatch = draw(st.sampled_from(Dispatch))
    strategies = tuple(
        LayerStrategy(
            tp=tp,
            sp=sp,
            ffn_tp=tp,
            ep=ep if layer.is_moe else 1,
            dispatch=dispatch if layer.is_moe else Dispatch.ALL_TO_ALL,
            recompute=recompute,
        )
        for layer in layers
    )
    share = 4 // (pp * virtual_stages)
    configuration = TrainingConfiguration(
        model=ModelSpec(name="made-up", hidden=draw(st.sampled_from((1024, 4096))), vocab=8192, layers=layers),
        cluster=load_cluster(draw(st.sampled_from(("h100", "h800", "h20"))), num_gpus=16),
        workload=Workload(global_batch=dp * 8, seq_len=draw(st.sampled_from((1024, 4096)))),
        runtime=load_runtime(draw(st.sampled_from(runtime_names()))),
        mesh=Mesh(pp=pp, dp=dp, tp=tp, sp=sp, ep=ep),
        sharding=Sharding(zero=draw(st.sampled_from((ZeroStage.NONE, ZeroStage.OPTIMIZER)))),
        pipeline=Pipeline(schedule=kind, virtual_stages=virtual_stages),
        stages=tuple(strategies[stage * share : (stage + 1) * share] for stage in range(pp * virtual_stages)),
    )
    return build_plan(configuration, predict(configuration), CERTIFICATE)


def _step_s(baseline: Baseline, **values: str) -> float:
    found = answer(baseline, changed(baseline, {key.replace("__", "."): value for key, value in values.items()}))
    return found.prediction.step_time_s


@settings(max_examples=15)
@given(plan=plans())
def test_what_changes_nothing_changes_nothing(plan: Plan) -> None:
    baseline = baseline_of(plan)
    assert answer(baseline, changed(baseline, {})).reproduces


@settings(max_examples=6)
@given(plan=plans())
def test_the_present_value_of_any_key_changes_nothing(plan: Plan) -> None:
    baseline = baseline_of(plan)
    for key, change in CHANGES.items():
        present = change.get(baseline.draft)
        text = str(getattr(present, "value", present))
        if ", " in text or text == "none" or key == "run.tokens":
            continue
        found = answer(baseline, changed(baseline, {key: text}))
        assert found.prediction == plan.prediction, key
        assert found.warnings == (), key


@settings(max_examples=15)
@given(plan=plans(), factor=st.floats(1.0, 8.0), key=st.sampled_from(("network", "nvlink", "memory")))
def test_more_bandwidth_is_never_slower(plan: Plan, factor: float, key: str) -> None:
    baseline = baseline_of(plan)
    faster = _step_s(baseline, **{f"cluster__{key}_bytes_per_s": f"{factor}x"})
    assert faster <= plan.prediction.step_time_s * SLACK


@settings(max_examples=15)
@given(plan=plans(), factor=st.floats(1.0, 8.0))
def test_latency_and_oversubscription_are_never_faster(plan: Plan, factor: float) -> None:
    baseline = baseline_of(plan)
    slower = _step_s(baseline, cluster__network_latency_s=f"{factor}x", cluster__oversubscription=str(factor))
    assert slower >= plan.prediction.step_time_s / SLACK


@settings(max_examples=15)
@given(plan=plans(), factor=st.sampled_from((2, 4)))
def test_more_layers_take_longer_and_hold_their_share(plan: Plan, factor: int) -> None:
    baseline = baseline_of(plan)
    model = plan.model.layers
    assume(len(set(model)) == 1 or model == model[:2] * 2 or model[1:] == model[1:2] * 3)
    more = changed(baseline, {"model.num_layers": str(4 * factor)}).configuration
    assert sum(map(len, more.stages)) == 4 * factor
    assert predict(more).step_time_s > plan.prediction.step_time_s


@settings(max_examples=15)
@given(plan=plans())
def test_a_plan_s_changed_configuration_is_one_that_a_plan_can_hold(plan: Plan) -> None:
    """What a what-if predicts could be written as a plan, read again, and would give the same prediction."""
    baseline = baseline_of(plan)
    configuration = changed(baseline, {"workload.seq_len": "2x", "layers.recompute": "full"}).configuration
    again = baseline_of(build_plan(configuration, predict(configuration), CERTIFICATE)).configuration
    assert predict(again) == predict(configuration)
    assert msgspec.structs.replace(again, orders=configuration.orders) == configuration


def _experts_over_two_nodes(dispatch: Dispatch) -> TrainingConfiguration:
    """Four layers of the 352B model, whose experts lie on 16 GPUs; its products are long enough to hide exchanges."""
    model = load_model("internal-352b")
    strategy = LayerStrategy(sp=4, ep=16, dispatch=dispatch, recompute=Recompute.SELECTIVE)
    return TrainingConfiguration(
        model=msgspec.structs.replace(model, layers=model.layers[:4]),
        cluster=load_cluster("h800", num_gpus=16),
        workload=Workload(global_batch=8, seq_len=8192),
        runtime=load_runtime("meshwright"),
        mesh=Mesh(dp=4, sp=4, ep=16),
        sharding=Sharding(zero=ZeroStage.OPTIMIZER),
        pipeline=Pipeline(schedule=ScheduleKind.ONE_F_ONE_B, virtual_stages=1, micro_batch=1),
        stages=((strategy,) * 4,),
    )


@pytest.mark.parametrize("dispatch", Dispatch)
@pytest.mark.parametrize("link", ["network_bytes_per_s", "nvlink_bytes_per_s"])
def test_more_bandwidth_below_hidden_exchanges_is_never_slower(dispatch: Dispatch, link: str) -> None:
    """The plan's orders are held, as a what-if holds them."""
    configuration = _experts_over_two_nodes(dispatch)
    baseline = baseline_of(build_plan(configuration, predict(configuration), CERTIFICATE))
    steps_s = [
        answer(baseline, changed(baseline, {f"cluster.{link}": f"{factor}x"})).prediction.step_time_s
        for factor in (0.25, 0.5, 0.7, 1, 1.4, 2, 4, 8)
    ]
    assert all(faster <= slower * (SLACK) for slower, faster in pairwise(steps_s)), steps_s
