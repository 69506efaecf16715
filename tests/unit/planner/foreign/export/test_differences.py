"""What runs otherwise than planned is said, never dropped."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.expert_load import ZipfLoad
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.strategy import AxisOrder, LayerStrategy, Recompute
from meshwright.planner.foreign.export import Export, export
from meshwright.planner.foreign.export.differences import differences, misfits
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of

Planned = Callable[..., Plan]
PlanOf = Callable[[TrainingConfiguration], Plan]
replace = msgspec.structs.replace


@pytest.fixture
def dense(planned: Planned) -> TrainingConfiguration:
    """A plan that Megatron-LM runs exactly."""
    return configuration_of(planned("llama-3.1-8b", 16, 64, "pp=4,schedule=1f1b,sp=1,recompute=none"))


def _with_layers(configuration: TrainingConfiguration, **changes: object) -> TrainingConfiguration:
    """With changes in the first layer of each stage."""

    def changed(stage: tuple[LayerStrategy, ...]) -> tuple[LayerStrategy, ...]:
        return (replace(stage[0], **changes), *stage[1:])

    return replace(configuration, stages=tuple(map(changed, configuration.stages)))


def _exported(plan_of: PlanOf, configuration: TrainingConfiguration, to: str = "megatron") -> Export:
    return export(plan_of(configuration), to)


def test_recomputation_that_differs_between_layers(dense: TrainingConfiguration, plan_of: PlanOf) -> None:
    exported = _exported(plan_of, _with_layers(dense, recompute=Recompute.SELECTIVE))
    assert any(line.startswith("recomputed: selective (SAR) in 4 layers in the plan") for line in exported.differences)
    assert f"#   {exported.differences[0]}" in exported.text


def test_the_first_whole_layers_of_each_stage_are_exact(dense: TrainingConfiguration, plan_of: PlanOf) -> None:
    exported = _exported(plan_of, _with_layers(dense, recompute=Recompute.FULL))
    assert exported.differences == ()
    assert "--recompute-method block\n    --recompute-num-layers 1" in exported.text


def test_offload_and_formats_of_communication(dense: TrainingConfiguration, plan_of: PlanOf) -> None:
    offloading = _exported(plan_of, _with_layers(dense, offload=True), "torchtitan")
    assert "activations of 4 layers wait in host memory in the plan, on the GPU in torchtitan" in offloading.differences
    workload = replace(dense.workload, precision=Precision.FP8)
    eights = replace(dense, workload=workload, orders=OrderBook())
    narrow = _with_layers(eights, communication=Precision.FP8)
    assert any("travel in FP8 in the plan" in line for line in _exported(plan_of, narrow, "torchtitan").differences)


def test_another_runtime_is_named_with_both_step_times(dense: TrainingConfiguration, plan_of: PlanOf) -> None:
    plan = plan_of(replace(dense, runtime=load_runtime("meshwright")))
    exported = export(plan, "megatron")
    assert any(line.startswith("gradients are summed in FP32 and reduced in 16 bits") for line in exported.differences)
    assert exported.plan_step_time_s == plan.prediction.step_time_s
    assert exported.step_time_s > exported.plan_step_time_s
    assert exported.comparison.startswith(f"step: {exported.plan_step_time_s:.3f} s as planned, ")
    assert f"# {exported.comparison}" in exported.text


def test_overlap_is_switched_on_where_the_rules_allow(planned: Planned) -> None:
    fixes = "pp=2,vp=4,schedule=interleaved,ep=8,etp=1,sp=1,tp=2,dispatch=alltoall-dedup,recompute=activation"
    text = export(planned("qwen3-30b-a3b", 32, 64, fixes, "meshwright"), "megatron").text
    assert "    --overlap-moe-expert-parallel-comm\n" in text
    assert "    --tp-comm-overlap\n" in text
    plain = export(planned("qwen3-30b-a3b", 32, 64, fixes, "megatron"), "megatron").text
    assert "overlap-moe" not in plain
    assert "tp-comm" not in plain


def test_sharding_and_order_of_ranks(dense: TrainingConfiguration) -> None:
    turned = replace(dense, mesh=replace(dense.mesh, order=AxisOrder.DP_OUTERMOST))
    offloaded = replace(turned, sharding=replace(dense.sharding, offload_optimizer=True))
    notes = list(differences(offloaded, dense, "X"))
    assert notes == [
        "model state: ZeRO-1, optimizer in host memory in the plan, ZeRO-1 in X",
        "ranks are ordered dp-outermost in the plan, pp-outermost in X",
    ]
    assert list(misfits(offloaded, dense, "X")) == []


def test_megatron_orders_ranks_either_way(dense: TrainingConfiguration, plan_of: PlanOf) -> None:
    turned = replace(dense, mesh=replace(dense.mesh, order=AxisOrder.DP_OUTERMOST))
    exported = _exported(plan_of, turned)
    assert "--use-tp-pp-dp-mapping" in exported.text
    assert exported.differences == ()


def test_another_mesh_or_pipeline_does_not_fit(dense: TrainingConfiguration, planned: Planned) -> None:
    other = configuration_of(planned("llama-3.1-8b", 16, 64, "pp=4,vp=2,schedule=interleaved,sp=1,recompute=none"))
    reasons = list(misfits(dense, other, "X"))
    assert len(reasons) == 1
    assert reasons[0].startswith("its stages are 1f1b, micro-batch")


def test_a_vocabulary_that_tp_does_not_divide_is_padded(planned: Planned, plan_of: PlanOf) -> None:
    configuration = configuration_of(planned("llama-3.1-8b", 8, 16, "tp=4,pp=1,sp=1,recompute=core-attention"))
    odd = replace(configuration, model=replace(configuration.model, vocab=50257))
    exported = _exported(plan_of, odd)
    assert "the vocabulary has 50257 rows in the plan, 50688 in Megatron-LM" in exported.differences


def test_no_prediction_modules_in_a_flavor_to_register(planned: Planned, plan_of: PlanOf) -> None:
    """DeepSeek-V2-Lite with another vocabulary and a module, which torchtitan has no flavor for."""
    fixes = "pp=2,schedule=1f1b,tp=1,ep=8,etp=1,sp=1,cp=1,dispatch=alltoall-dedup,recompute=full"
    configuration = configuration_of(planned("deepseek-v2-lite", 16, 64, fixes, "fsdp-torch"))
    model = replace(configuration.model, vocab=100352, mtp_depth=1)
    predicting = replace(configuration, model=model, orders=OrderBook())
    exported = _exported(plan_of, predicting, "torchtitan")
    assert "1 modules that predict further tokens in the plan, 0 in torchtitan" in exported.differences
    assert 'deepseekv3_args["deepseek-v2-lite-changed"] = DeepSeekV3ModelArgs(' in exported.text


def test_both_step_times_are_of_the_same_routing(planned: Planned, plan_of: PlanOf) -> None:
    fixes = "pp=2,schedule=1f1b,ep=8,etp=1,sp=1,dispatch=alltoall,recompute=ffn"
    configuration = configuration_of(planned("mixtral-8x7b", 32, 64, fixes))
    load = ZipfLoad(exponent=1.0)
    skewed = replace(configuration, workload=replace(configuration.workload, expert_load=load))
    exported = _exported(plan_of, skewed)
    assert exported.differences == ()
    assert exported.step_time_s == exported.plan_step_time_s
    assert exported.step_time_s > _exported(plan_of, configuration).step_time_s


def test_a_capacity_that_both_have_is_no_difference(dense: TrainingConfiguration) -> None:
    bounded = replace(dense, workload=replace(dense.workload, capacity_factor=1.25))
    assert not any("capacity" in line for line in differences(bounded, bounded, "Megatron-LM"))
    assert "a capacity factor of 1.25 in the plan, experts take all tokens in Megatron-LM" in differences(
        bounded, dense, "Megatron-LM"
    )


def test_without_replicas_the_format_of_sums_counts_alone(dense: TrainingConfiguration) -> None:
    alone = replace(dense, mesh=replace(dense.mesh, dp=1), cluster=dense.cluster.with_gpus(4))
    narrow = replace(alone, runtime=replace(dense.runtime, fp32_gradients=False, gradient_reduce_bytes=2))
    assert list(differences(alone, narrow, "X")) == ["gradients are summed in FP32 in the plan, summed in BF16 in X"]
