"""A configuration as Megatron-LM's arguments: what `configuration`, `runtime`, `stages`, `recompute` read, backwards.

Arguments hold for all layers alike: the first layer stands for the dense ones, the first with experts for the others.
What they cannot say is left out; comparing with what they are read as finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import AxisOrder, ContextMethod, Dispatch, LayerStrategy, Recompute, ZeroStage
from meshwright.costmodel.tables import AttentionBackend
from meshwright.planner.foreign.megatron.configuration import CONTEXT_METHODS
from meshwright.planner.foreign.megatron.feature_rules import feature_rules
from meshwright.planner.foreign.megatron.model_settings import Changes, model_settings
from meshwright.planner.foreign.megatron.reading import NAME
from meshwright.planner.foreign.megatron.recompute import EXACT
from meshwright.planner.foreign.megatron.runtime import ATTENTION, FP8_PARAMETER_BYTES, FSDP_STRATEGIES
from meshwright.planner.foreign.megatron.stage_rules import stage_rules
from meshwright.planner.foreign.megatron.stages import layers_per_stage
from meshwright.planner.foreign.settings import Settings, SettingValue
from meshwright.planner.foreign.stated import settings_from, stated_fields

EXPORTED = "the exported arguments"
MAX_STEPS = 16
"""Numbers of whole layers to recompute that are tried between none and all."""

DISPATCHERS = {
    Dispatch.ALL_TO_ALL: "alltoall",
    Dispatch.ALL_TO_ALL_DEDUP: "flex",
    Dispatch.ALL_GATHER: "allgather",
}
FP8: Changes = {"fp8_format": "e4m3", "fp8_recipe": "blockwise"}
"""Scales by block, which Hopper has and which excludes no kind of recomputation."""


def settings_of(configuration: TrainingConfiguration) -> Settings:
    """The settings that stand for a configuration, its recomputation left out."""
    values = {
        **stated_fields(NAME, configuration),
        **model_settings(configuration.model, configuration.workload.seq_len, configuration.mesh.tp),
        **_attention(configuration),
        **_experts(configuration),
        **_sharding(configuration),
        **_formats(configuration),
        **_kernels(configuration.runtime),
    }
    settings = settings_from(NAME, EXPORTED, values | _unstated(configuration))
    return _overlapping(settings.changed(stage_settings(settings, configuration)), configuration)


def _unstated(configuration: TrainingConfiguration) -> Changes:
    """Fields that are not written where they say nothing; virtual stages have more than one way to be written."""
    is_moe = configuration.model.is_moe
    return {
        "num_virtual_stages_per_pipeline_rank": None,
        "mtp_num_layers": configuration.model.mtp_depth or None,
        "expert_model_parallel_size": configuration.mesh.ep if is_moe else None,
        "expert_tensor_parallel_size": configuration.mesh.etp if is_moe else None,
    }


def _attention(configuration: TrainingConfiguration) -> Changes:
    """Context parallelism; Ulysses is its all-to-all, alone or inside of a ring."""
    mesh, strategy = configuration.mesh, configuration.stages[0][0]
    changes: Changes = {
        "context_parallel_size": mesh.cp * mesh.sp,
        "sequence_parallel": mesh.tp > 1 and strategy.sequence_parallel,
        "use_tp_pp_dp_mapping": mesh.order is AxisOrder.DP_OUTERMOST,
    }
    if mesh.sp > 1 and mesh.cp > 1:
        return changes | {"cp_comm_type": ("a2a+p2p",), "hierarchical_context_parallel_sizes": (mesh.sp, mesh.cp)}
    if mesh.sp > 1:
        return changes | {"cp_comm_type": ("a2a",)}
    names: dict[ContextMethod, str] = {}
    for name, method in CONTEXT_METHODS.items():
        names.setdefault(method, name)
    return changes | ({"cp_comm_type": (names[strategy.context_method],)} if mesh.cp > 1 else {})


def _experts(configuration: TrainingConfiguration) -> Changes:
    strategy = expert_strategy(configuration)
    if strategy is None:
        return {}
    alone = strategy.ep * strategy.etp == 1
    changes: Changes = {"moe_token_dispatcher_type": "alltoall" if alone else DISPATCHERS[strategy.dispatch]}
    if changes["moe_token_dispatcher_type"] == "flex":
        changes["moe_flex_dispatcher_backend"] = "deepep"
    capacity = configuration.workload.capacity_factor
    if isinstance(capacity, float):
        changes |= {"moe_expert_capacity_factor": capacity, "moe_pad_expert_input_to_capacity": True}
    return changes


def expert_strategy(configuration: TrainingConfiguration) -> LayerStrategy | None:
    """What the first layer with experts does."""
    strategies = (strategy for stage in configuration.stages for strategy in stage)
    layers = zip(configuration.model.layers, strategies, strict=True)
    return next((strategy for layer, strategy in layers if layer.is_moe), None)


def _sharding(configuration: TrainingConfiguration) -> Changes:
    """ZeRO-1 is the distributed optimizer, ZeRO-2 and 3 are Megatron-FSDP."""
    sharding, mesh, runtime = configuration.sharding, configuration.mesh, configuration.runtime
    shards = sharding.zero is not ZeroStage.NONE
    fsdp = sharding.stage >= 2
    strategies = {zero: name for name, zero in FSDP_STRATEGIES.items()}
    degree = sharding.shard_degree
    return {
        "use_distributed_optimizer": shards,
        "use_megatron_fsdp": fsdp,
        "data_parallel_sharding_strategy": strategies[sharding.zero] if fsdp else None,
        "gradient_accumulation_fusion": not fsdp,
        "num_distributed_optimizer_instances": mesh.dp * mesh.cp * mesh.sp // degree if degree else None,
        "overlap_grad_reduce": runtime.overlap_gradient_reduce,
        "overlap_param_gather": runtime.overlap_gradient_reduce and runtime.overlap_parameter_gather and shards,
        "optimizer_cpu_offload": sharding.offload_optimizer,
        "use_precision_aware_optimizer": sharding.offload_optimizer,
    }


def _formats(configuration: TrainingConfiguration) -> Changes:
    runtime = configuration.runtime
    narrow = configuration.workload.precision is Precision.FP8
    sharded = configuration.sharding.zero is not ZeroStage.NONE
    return {
        "bf16": True,
        "grad_reduce_in_bf16": not runtime.fp32_gradients and runtime.gradient_reduce_bytes <= 2,
        **(FP8 if narrow else {}),
        "fp8_param_gather": narrow and sharded and runtime.parameter_gather_bytes == FP8_PARAMETER_BYTES,
    }


def _kernels(runtime: RuntimeSpec) -> Changes:
    """Attention, chosen by Transformer Engine unless it is FlashAttention-2, and kernels as they are predicted."""
    backends = {backend: name for name, backend in ATTENTION.items() if name != "auto"}
    named = runtime.attention_backend is AttentionBackend.FA2
    return {
        "attention_backend": backends[runtime.attention_backend] if named else None,
        "cross_entropy_loss_fusion": True,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "overlap_p2p_comm": runtime.overlap_pipeline,
        "cuda_graph_impl": "local" if runtime.cuda_graphs else None,
    }


# Overlap inside a layer: switched on where the plan has any and Megatron-LM's rules allow it.


def _overlapping(settings: Settings, configuration: TrainingConfiguration) -> Settings:
    overlap, mesh = configuration.runtime.overlap, configuration.mesh
    wanted = (
        ("tp_comm_overlap", overlap.tensor is OverlapLevel.FUSED and mesh.tp > 1),
        ("overlap_moe_expert_parallel_comm", overlap.expert is not OverlapLevel.NONE and mesh.ep > 1),
    )
    for name, holds in wanted:
        changed = settings.changed({name: True})
        if holds and not _breaks(changed, configuration) - _breaks(settings, configuration):
            settings = changed
    return settings


def _breaks(settings: Settings, configuration: TrainingConfiguration) -> frozenset[str]:
    return frozenset(rule for breaks, rule, *_ in feature_rules(settings, configuration.cluster.num_gpus) if breaks)


# The split into stages.


def stage_settings(settings: Settings, configuration: TrainingConfiguration) -> Changes:
    """The plainest arguments that give each virtual stage its layers; a layout always does."""
    chunks = configuration.pipeline.virtual_stages
    counts = tuple(map(len, configuration.stages))
    if len(counts) == 1:
        return {}
    virtual: Changes = {"num_virtual_stages_per_pipeline_rank": chunks} if chunks > 1 else {}
    for changes in _plain_splits(counts, configuration.mesh.pp):
        if _splits_into(settings.changed(virtual | changes), configuration.cluster.num_gpus, counts):
            return virtual | changes
    return {"pipeline_model_parallel_layout": layout_text(counts, configuration.model.mtp_depth)}


def _plain_splits(counts: Sequence[int], pp: int) -> Iterator[Changes]:
    yield {}
    embedding, loss = "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"
    yield {embedding: True, loss: True}
    yield {loss: True}
    yield {embedding: True}
    if len(counts) == pp:
        yield {"decoder_last_pipeline_num_layers": counts[-1] or None}
        yield {"decoder_first_pipeline_num_layers": counts[0] or None}
        ends = {"decoder_first_pipeline_num_layers": counts[0], "decoder_last_pipeline_num_layers": counts[-1]}
        yield {name: count or None for name, count in ends.items()}


def _splits_into(settings: Settings, num_gpus: int, counts: tuple[int, ...]) -> bool:
    """Whether the split is this one, with no remainder that rounding hides."""
    if any(breaks for breaks, *_ in stage_rules(settings, num_gpus)):
        return False
    try:
        return layers_per_stage(settings) == counts
    except InputError:
        return False


def layout_text(counts: Sequence[int], mtp_depth: int) -> str:
    """Stages for `--pipeline-model-parallel-layout`: E embedding, t layer, m prediction module, L loss.

    >>> layout_text((1, 2, 2, 1), 1)
    'Et|(tt|)*2tmL'
    """
    stages = ["t" * count for count in counts]
    stages[0] = f"E{stages[0]}"
    stages[-1] += "m" * mtp_depth + "L"
    text, at, last = "", 0, len(stages) - 1
    while at < last:
        run = next((end for end in range(at, last) if stages[end] != stages[at]), last) - at
        text += f"({stages[at]}|)*{run}" if run > 1 else f"{stages[at]}|"
        at += run
    return text + stages[last]


# Recomputation, which overlap may exclude.


def ways(configuration: TrainingConfiguration) -> Iterator[dict[str, SettingValue]]:
    """Every kind of recomputation, with overlap of the experts' exchange as it is and without."""
    overlaps = configuration.mesh.ep > 1 and configuration.runtime.overlap.expert is not OverlapLevel.NONE
    for changes in recomputes(configuration):
        yield changes
        if overlaps:
            yield {**changes, "overlap_moe_expert_parallel_comm": None}


def recomputes(configuration: TrainingConfiguration) -> Iterator[dict[str, SettingValue]]:
    """What Megatron-LM can run again: nothing, modules, whole layers, or the first whole layers of each stage.

    Only sets of modules that a policy stands for exactly: of others the memory would be predicted wrongly.
    """
    yield {}
    kinds = {layer.is_moe for layer in configuration.model.layers}
    for modules in EXACT:
        if all(_has(name, kinds) for name in modules):
            yield {"recompute_granularity": "selective", "recompute_modules": tuple(sorted(modules))}
    full: dict[str, SettingValue] = {"recompute_granularity": "full"}
    yield {**full, "recompute_method": "uniform", "recompute_num_layers": 1}
    for count in _whole_layers(configuration):
        yield {**full, "recompute_method": "block", "recompute_num_layers": count}


def _has(module: str, kinds: set[bool]) -> bool:
    """Whether some layer has the module: `moe` and `moe_act` are those of experts, `mlp` is the dense FFN."""
    return module in ("core_attn", "layernorm") or (module != "mlp") in kinds


def _whole_layers(configuration: TrainingConfiguration) -> tuple[int, ...]:
    """How many whole layers a stage may run again: as many as the plan's stages do, and steps between none and all."""
    numbers = {sum(strategy.recompute is Recompute.FULL for strategy in stage) for stage in configuration.stages}
    longest = max(map(len, configuration.stages))
    steps = range(1, longest, max(1, longest // MAX_STEPS))
    return tuple(sorted(count for count in numbers.union(steps) if 0 < count < longest))
