"""Laws of the plan file: any plan survives it, and stands for the configuration that gives its prediction."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import AxisOrder, Dispatch, LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster, preset_names
from meshwright.planner.plan import SearchRecord
from meshwright.planner.plan_conversion import build_plan, configuration_of, prediction_record
from meshwright.planner.plan_orders import plan_orders
from meshwright.planner.serialise import parse_plan, plan_json

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=4, head_dim=64, value_head_dim=64)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=1024))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=8, top_k=2, intermediate=512))
PIPELINES = (
    (ScheduleKind.ONE_F_ONE_B, 1),
    (ScheduleKind.INTERLEAVED, 2),
    (ScheduleKind.ZB_H1, 1),
    (ScheduleKind.ZB_V, 2),
    (ScheduleKind.DUALPIPE_V, 2),
)


@st.composite
def configurations(draw: st.DrawFn) -> TrainingConfiguration:
    """Small legal configurations: dense and MoE layers, uneven stages, mixed recomputation, all schedules."""
    schedule, virtual_stages = draw(st.sampled_from(PIPELINES))
    pp = 2 if virtual_stages > 1 else draw(st.sampled_from((1, 2, 4)))
    tp, sp = draw(st.sampled_from(((1, 1), (2, 1), (1, 2), (2, 2))))
    mesh = Mesh(
        pp=pp,
        dp=16 // (pp * tp * sp),
        tp=tp,
        sp=sp,
        ep=draw(st.sampled_from((1, 2, 4))),
        order=draw(st.sampled_from(AxisOrder)),
    )
    counts = draw(st.lists(st.integers(1, 3), min_size=pp * virtual_stages, max_size=pp * virtual_stages))
    layers = draw(st.lists(st.sampled_from((DENSE, MOE)), min_size=sum(counts), max_size=sum(counts)))
    recompute, dispatch = st.sampled_from(Recompute), draw(st.sampled_from(Dispatch))
    strategies = iter(
        LayerStrategy(
            tp=tp,
            sp=sp,
            ffn_tp=1 if layer.is_moe else tp,
            ep=mesh.ep if layer.is_moe else 1,
            dispatch=dispatch,
            recompute=draw(recompute),
        )
        for layer in layers
    )
    micro_batch = draw(st.sampled_from((1, 2)))
    return TrainingConfiguration(
        model=ModelSpec(name="drawn", hidden=512, vocab=2048, layers=tuple(layers)),
        cluster=load_cluster(draw(st.sampled_from(preset_names())), num_gpus=16),
        workload=Workload(global_batch=mesh.dp * micro_batch * 4, seq_len=1024),
        runtime=load_runtime("meshwright"),
        mesh=mesh,
        sharding=Sharding(zero=draw(st.sampled_from((ZeroStage.OPTIMIZER, ZeroStage.GRADIENTS)))),
        pipeline=Pipeline(schedule=schedule, virtual_stages=virtual_stages, micro_batch=micro_batch),
        stages=tuple(tuple(next(strategies) for _ in range(count)) for count in counts),
    )


@given(configurations())
@settings(max_examples=25)
def test_a_plan_survives_its_file_and_keeps_its_promise(configuration: TrainingConfiguration) -> None:
    prediction = predict(configuration)
    certificate = SearchRecord(
        candidates=1,
        rejected=0,
        pruned=0,
        solved=1,
        objective_s=prediction.step_time_s,
        lower_bound_s=0.0,
        gap=1.0,
        order_gap=1.0,
        solve_time_s=0.0,
        space="one configuration",
        solvers=(),
    )
    plan = build_plan(configuration, prediction, certificate)
    read = parse_plan(plan_json(plan), "plan.json")
    assert read == plan
    assert plan_json(read) == plan_json(plan)
    again = configuration_of(read)
    assert msgspec.structs.replace(again, orders=configuration.orders) == configuration
    assert set(again.orders.entries) == set(plan_orders(configuration).entries)
    assert prediction_record(predict(again), again.model) == plan.prediction
