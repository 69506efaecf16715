"""A configuration as torchtitan's options: what `configuration` reads, backwards.

Options hold for all layers alike. What they cannot say is left out; comparing with what they are read as finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import ContextMethod, Dispatch, LayerStrategy, Recompute, ZeroStage
from meshwright.planner.foreign.settings import Settings, SettingValue
from meshwright.planner.foreign.stated import settings_from, stated_fields
from meshwright.planner.foreign.torchtitan.configuration import (
    EP,
    ETP,
    LOCAL_BATCH,
    MICRO_BATCH,
    PARTS,
    REPLICATE,
    SCHEDULE,
    SCHEDULES,
    SHARD,
)
from meshwright.planner.foreign.torchtitan.model_args import FlavorName
from meshwright.planner.foreign.torchtitan.reading import NAME

EXPORTED = "the exported options"
MODE, OPTION = "activation_checkpoint.mode", "activation_checkpoint.selective_ac_option"
OVERLAP = "parallelism.pipeline_parallel_expert_parallel_overlap"
LINEAR, GROUPED = "quantize.linear.float8", "quantize.grouped_mm.float8"
FP8_PARAMETER_BYTES = 1

Changes = dict[str, SettingValue]


def settings_of(configuration: TrainingConfiguration, flavor: FlavorName) -> Settings:
    """The settings that stand for a configuration, its recomputation left out."""
    values: Changes = {
        **stated_fields(NAME, configuration),
        "model.name": flavor.name,
        "model.flavor": flavor.flavor,
        **_pipeline(configuration),
        **_sharding(configuration),
        **_layer(configuration),
        **(_float8(configuration) if configuration.workload.precision is Precision.FP8 else {}),
        "compile.enable": True,
        "compile.components": ("model", "loss"),
    }
    return settings_from(NAME, EXPORTED, values)


def _pipeline(configuration: TrainingConfiguration) -> Changes:
    """The batch of a replica runs as one pipeline; without a pipeline, micro-batch after micro-batch."""
    pipeline, mesh = configuration.pipeline, configuration.mesh
    if mesh.pp == 1:
        return {LOCAL_BATCH: pipeline.micro_batch}
    names: dict[ScheduleKind, str] = {}
    for name, kind in SCHEDULES.items():
        names.setdefault(kind, name)
    return {
        LOCAL_BATCH: configuration.workload.global_batch // mesh.dp,
        MICRO_BATCH: pipeline.micro_batch,
        SCHEDULE: names.get(pipeline.schedule),
        PARTS: module_parts(tuple(map(len, configuration.stages))),
    }


def module_parts(counts: Sequence[int]) -> tuple[str, ...]:
    """Names of the modules of each virtual stage.

    >>> module_parts((1, 2))
    ('tok_embeddings layers.0', 'layers.1 layers.2 norm output')
    """
    parts: list[list[str]] = []
    first = 0
    for count in counts:
        parts.append([f"layers.{layer}" for layer in range(first, first + count)])
        first += count
    parts[0].insert(0, "tok_embeddings")
    parts[-1] += ["norm", "output"]
    return tuple(map(" ".join, parts))


def _sharding(configuration: TrainingConfiguration) -> Changes:
    """FSDP, parameters gathered anew for each pass in ZeRO-3 only; plain replicas where nothing else is split."""
    sharding, mesh = configuration.sharding, configuration.mesh
    copies = mesh.dp * mesh.cp * mesh.sp
    alone = mesh.num_gpus == mesh.dp and mesh.ep == 1
    replicas = copies // sharding.shard_degree if sharding.shard_degree else 1
    if sharding.zero is ZeroStage.NONE and alone:
        replicas = mesh.dp
    if mesh.dp % replicas:
        replicas = 1
    return {
        REPLICATE: replicas,
        SHARD: str(mesh.dp // replicas),
        "parallelism.fsdp_reshard_after_forward": "always" if sharding.zero is ZeroStage.PARAMETERS else "never",
        "training.enable_cpu_offload": sharding.offload_optimizer,
    }


def _layer(configuration: TrainingConfiguration) -> Changes:
    strategy, mesh = expert_strategy(configuration), configuration.mesh
    ring = strategy.context_method is ContextMethod.RING
    overlaps = configuration.runtime.overlap.tensor is not OverlapLevel.NONE
    changes: Changes = {"parallelism.enable_async_tensor_parallel": mesh.tp > 1 and overlaps}
    if mesh.cp > 1:
        changes["parallelism.context_parallel_rotate_method"] = "alltoall" if ring else "allgather"
    if mesh.ep == 1:
        return changes | {EP: None, ETP: None}
    deduplicates = strategy.dispatch is Dispatch.ALL_TO_ALL_DEDUP
    return changes | {"parallelism.expert_parallel_comm_backend": "deepep" if deduplicates else "standard"}


def expert_strategy(configuration: TrainingConfiguration) -> LayerStrategy:
    """What the first layer with experts does, in a dense model the first layer."""
    strategies = [strategy for stage in configuration.stages for strategy in stage]
    layers = zip(configuration.model.layers, strategies, strict=True)
    return next((strategy for layer, strategy in layers if layer.is_moe), strategies[0])


def _float8(configuration: TrainingConfiguration) -> Changes:
    """Linear layers, and experts by a converter of their own."""
    converters = (LINEAR, GROUPED) if configuration.model.is_moe else (LINEAR,)
    narrow = configuration.runtime.parameter_gather_bytes == FP8_PARAMETER_BYTES
    return {
        "model.converters": converters,
        f"{LINEAR}.enable_fsdp_float8_all_gather": narrow,
        f"{GROUPED}.fqns": ("experts",) if configuration.model.is_moe else None,
    }


def recomputes(configuration: TrainingConfiguration) -> Iterator[Changes]:
    """Nothing, every second product, whole layers, every n-th whole layer."""
    split = configuration.mesh.pp > 1 and configuration.mesh.ep > 1
    dual = configuration.pipeline.schedule is ScheduleKind.DUALPIPE_V and split
    without_overlap: Changes = {OVERLAP: False} if dual else {}
    yield {MODE: "none"}
    yield {MODE: "selective", OPTION: "op", **without_overlap}
    yield {MODE: "full", **without_overlap}
    for every in _intervals(configuration):
        yield {MODE: "selective", OPTION: str(every), **without_overlap}


def _intervals(configuration: TrainingConfiguration) -> Iterator[int]:
    """Every second layer to every eighth, and what comes nearest to the share of whole layers in the plan."""
    policies = [strategy.recompute for stage in configuration.stages for strategy in stage]
    whole = policies.count(Recompute.FULL)
    nearest = round(len(policies) / whole) if whole else 2
    yield from sorted({2, 3, 4, 6, 8, max(2, nearest)})


def float8_filters(model: ModelSpec) -> tuple[str, ...]:
    """Linear layers that stay in BF16: the head, and routers."""
    return ("output", "router.gate") if model.is_moe else ("output",)
