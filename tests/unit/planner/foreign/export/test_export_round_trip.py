"""The law of export: `check` reads of an exported file what the plan has, and finds no broken rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.planner.foreign import CheckResult
from meshwright.planner.foreign.export import export
from meshwright.planner.foreign.export.same import same_sharding
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of

Planned = Callable[..., Plan]
Checked = Callable[[str, str, int], CheckResult]

LLAMA, MIXTRAL, QWEN, DEEPSEEK = "llama-3.1-8b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3"
FSDP = {"runtime": "fsdp-torch"}
MEGATRON = {
    "dense, uneven stages": (LLAMA, 16, 64, "pp=4,schedule=1f1b,sp=1,recompute=none", {}),
    "dense, stages of a layout": ("llama-3.1-70b", 64, 64, "pp=16,schedule=1f1b,sp=1,tp=2,recompute=full", {}),
    "dense, virtual stages": (LLAMA, 16, 64, "pp=4,vp=2,schedule=interleaved,sp=1,recompute=none", {}),
    "dense, tp and sequence parallelism": (LLAMA, 8, 16, "tp=4,pp=1,sp=1,recompute=core-attention", {}),
    "dense, cp ring": (LLAMA, 16, 16, "cp=4,tp=2,pp=1,attention=cp-ring,sp=1,recompute=full", {}),
    "dense, cp gather": (LLAMA, 16, 16, "cp=4,pp=1,attention=cp-allgather,sp=1,recompute=full", {}),
    "dense, Ulysses": (LLAMA, 8, 16, "sp=4,tp=1,pp=1,ffn=replicated,recompute=full", {}),
    "dense, Ulysses in a ring": (
        LLAMA,
        16,
        16,
        "sp=2,cp=2,tp=1,pp=1,ffn=replicated,attention=cp-ring,recompute=full",
        {},
    ),
    "dense, ZeRO-0": ("llama-3.2-1b", 8, 16, "zero=0,pp=1,sp=1,recompute=none", {}),
    "dense, ZeRO-2": (LLAMA, 8, 16, "zero=2,pp=1,sp=1,recompute=none,offload=none", {}),
    "dense, ZeRO-3": (LLAMA, 8, 16, "zero=3,pp=1,sp=1,recompute=full", {}),
    "dense, FP8": (LLAMA, 8, 16, "tp=2,pp=1,sp=1,recompute=none", {"precision": "fp8"}),
    "Mixtral, ep": (MIXTRAL, 32, 64, "pp=2,schedule=1f1b,ep=8,etp=1,sp=1,dispatch=alltoall,recompute=ffn", {}),
    "Mixtral, etp": (MIXTRAL, 32, 64, "pp=4,schedule=1f1b,tp=2,ep=4,etp=2,sp=1,dispatch=allgather,recompute=ffn", {}),
    "Qwen3, FP8, virtual stages": (
        QWEN,
        32,
        64,
        "pp=2,vp=4,schedule=interleaved,ep=8,etp=1,sp=1,cp=1,dispatch=alltoall-dedup,recompute=activation",
        {"precision": "fp8"},
    ),
    "Qwen3, ZeRO-3": (
        QWEN,
        32,
        64,
        "pp=1,ep=8,etp=1,sp=1,zero=3,dispatch=alltoall-dedup,recompute=norm-activation",
        {},
    ),
    "DeepSeek-V3": (
        DEEPSEEK,
        1024,
        1024,
        "pp=16,schedule=1f1b,tp=2,ep=64,etp=1,sp=1,dispatch=alltoall-dedup,recompute=full",
        {},
    ),
}
TORCHTITAN = {
    "dense, ZeRO-3": (LLAMA, 8, 16, "zero=3,pp=1,sp=1,tp=1,recompute=full", FSDP),
    "dense, ZeRO-2": (LLAMA, 8, 16, "zero=2,pp=1,sp=1,tp=2,recompute=full", FSDP),
    "dense, ZeRO-1 in a pipeline": (LLAMA, 16, 64, "pp=4,schedule=1f1b,sp=1,recompute=full", FSDP),
    "dense, interleaved": (LLAMA, 16, 64, "pp=4,vp=2,schedule=interleaved,sp=1,recompute=full", FSDP),
    "dense, zero-bubble": (LLAMA, 16, 64, "pp=4,schedule=zb-v,sp=1,recompute=none", FSDP),
    "dense, DualPipeV": (LLAMA, 16, 64, "pp=4,schedule=dualpipe-v,sp=1,recompute=full", FSDP),
    "dense, replicas": ("llama-3.2-1b", 8, 16, "zero=0,pp=1,sp=1,tp=1,recompute=none", FSDP),
    "dense, cp ring": (LLAMA, 16, 16, "cp=4,tp=1,pp=1,attention=cp-ring,sp=1,zero=3,recompute=full", FSDP),
    "dense, FP8": (LLAMA, 8, 16, "tp=2,pp=1,sp=1,zero=3,recompute=none", FSDP | {"precision": "fp8"}),
    "Mixtral, ep, a flavor to register": (
        MIXTRAL,
        32,
        64,
        "pp=1,ep=8,etp=1,sp=1,cp=1,zero=3,dispatch=alltoall,recompute=full",
        FSDP,
    ),
    "Qwen3, ep, DeepEP": (
        QWEN,
        32,
        64,
        "pp=1,ep=8,etp=1,sp=1,cp=1,zero=3,dispatch=alltoall-dedup,recompute=full",
        FSDP,
    ),
    "Qwen3, FP8": (
        QWEN,
        32,
        64,
        "pp=1,ep=8,etp=1,sp=1,cp=1,zero=3,dispatch=alltoall-dedup,recompute=full",
        FSDP | {"precision": "fp8"},
    ),
    "DeepSeek-V3": (
        DEEPSEEK,
        1024,
        1024,
        "pp=16,schedule=1f1b,tp=2,ep=64,etp=1,sp=1,dispatch=alltoall-dedup,recompute=full",
        FSDP,
    ),
}
CASES = [("megatron", name) for name in MEGATRON] + [("torchtitan", name) for name in TORCHTITAN]


def _said(layer: LayerSpec, strategy: LayerStrategy) -> tuple[object, ...]:
    """What decides who computes and sends what in a layer, and what it keeps."""
    exchanges = layer.is_moe and strategy.ep * strategy.etp > 1
    return (
        (strategy.tp, strategy.sp, strategy.cp, strategy.ep, strategy.etp),
        strategy.context_method if strategy.cp > 1 else None,
        strategy.sequence_parallel or strategy.tp == 1,
        strategy.dispatch if exchanges else None,
        strategy.recompute,
    )


def _layers(configuration: TrainingConfiguration) -> list[tuple[object, ...]]:
    strategies = [strategy for stage in configuration.stages for strategy in stage]
    return [_said(*pair) for pair in zip(configuration.model.layers, strategies, strict=True)]


@pytest.mark.parametrize(("framework", "name"), CASES, ids=[f"{to}: {name}" for to, name in CASES])
def test_a_check_reads_back_what_the_plan_has(framework: str, name: str, planned: Planned, checked: Checked) -> None:
    model, gpus, batch, fixes, options = (MEGATRON if framework == "megatron" else TORCHTITAN)[name]
    plan = planned(model, gpus, batch, fixes, **options)
    wanted = configuration_of(plan)
    result = checked(framework, export(plan, framework).text, gpus)
    assert result.problems == ()
    assert result.unknown_flags == ()
    assert result.notes == ()
    assert result.fits
    read = result.configuration
    assert read is not None
    assert read.model.layers == wanted.model.layers
    assert (read.model.hidden, read.model.vocab) == (wanted.model.hidden, wanted.model.vocab)
    assert (read.mesh, read.pipeline) == (wanted.mesh, wanted.pipeline)
    assert list(map(len, read.stages)) == list(map(len, wanted.stages))
    assert read.workload == wanted.workload
    assert same_sharding(wanted, read)
    assert _layers(read) == _layers(wanted)


def test_a_plan_for_the_framework_is_promised_the_same_step(planned: Planned) -> None:
    """Where nothing differs, the prediction is the plan's own."""
    model, gpus, batch, fixes, _ = MEGATRON["dense, uneven stages"]
    exported = export(planned(model, gpus, batch, fixes), "megatron")
    assert exported.differences == ()
    assert exported.step_time_s == exported.plan_step_time_s
    assert exported.peak_memory_bytes <= exported.memory_limit_bytes


def test_embedding_and_head_follow_the_layers(
    planned: Planned, plan_of: Callable[[TrainingConfiguration], Plan]
) -> None:
    """A plan may split them over sp where its layers have tp: frameworks have one split for all."""
    layers = configuration_of(planned(LLAMA, 8, 16, "tp=4,pp=1,sp=1,recompute=core-attention"))
    ends = replace(layers, mesh=replace(layers.mesh, tp=1, sp=4), orders=OrderBook())
    exported = export(plan_of(ends), "megatron")
    assert exported.text.count("--tensor-model-parallel-size 4") == 1
    assert "--context-parallel-size 1" in exported.text
    assert exported.differences[0] == "embedding and head are split over sp 4 in the plan, as the layers in Megatron-LM"
    assert export(plan_of(layers), "megatron").differences == exported.differences[1:]
