"""From torchtitan's options to a complete training configuration."""

from __future__ import annotations

import itertools
from math import ceil

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.formulas.memory import FP32_BYTES
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.simulate import ScheduleKind, check_combination
from meshwright.costmodel.simulate.schedules import placement
from meshwright.costmodel.strategy import ContextMethod, Dispatch, LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.planner.foreign.printed import PrintedOptions, described_runtime
from meshwright.planner.foreign.settings import Settings
from meshwright.planner.foreign.torchtitan.flavors import flavor_model

RUNTIME = "fsdp-torch"
TP, PP = "parallelism.tensor_parallel_degree", "parallelism.pipeline_parallel_degree"
CP, EP = "parallelism.context_parallel_degree", "parallelism.expert_parallel_degree"
ETP = "parallelism.expert_tensor_parallel_degree"
REPLICATE = "parallelism.data_parallel_replicate_degree"
SHARD = "parallelism.data_parallel_shard_degree"
SCHEDULE = "parallelism.pipeline_parallel_schedule"
LOCAL_BATCH, GLOBAL_BATCH = "training.local_batch_size", "training.global_batch_size"
MICRO_BATCH = "parallelism.pipeline_parallel_microbatch_size"
PARTS = "parallelism.module_fqns_per_model_part"
SCHEDULES = {
    "1F1B": ScheduleKind.ONE_F_ONE_B,
    "GPipe": ScheduleKind.GPIPE,
    "Interleaved1F1B": ScheduleKind.INTERLEAVED,
    "InterleavedZeroBubble": ScheduleKind.INTERLEAVED,
    "LoopedBFS": ScheduleKind.INTERLEAVED,
    "ZBVZeroBubble": ScheduleKind.ZB_V,
    "DualPipeV": ScheduleKind.DUALPIPE_V,
}
SINGLE_STAGE = ("1F1B", "GPipe")


def model_of(settings: Settings) -> ModelSpec:
    """The model of the flavor."""
    return flavor_model(settings.where, settings.text("model.name"), settings.text("model.flavor"))


def configuration_of(settings: Settings, cluster: ClusterSpec, expert_imbalance: float) -> TrainingConfiguration:
    """The run that the options describe on a cluster; an `InputError` where they contradict each other."""
    return configuration_for(settings, model_of(settings), cluster, expert_imbalance)


def configuration_for(
    settings: Settings, model: ModelSpec, cluster: ClusterSpec, expert_imbalance: float
) -> TrainingConfiguration:
    """The run of a model, whatever flavor the options name."""
    mesh, pipeline = mesh_of(settings, model, cluster.num_gpus), pipeline_of(settings, model)
    configuration = TrainingConfiguration(
        model=model,
        cluster=cluster,
        workload=Workload(
            global_batch=global_batch(settings, mesh.dp),
            seq_len=settings.integer("training.seq_len"),
            precision=precision_of(settings),
            expert_imbalance=expert_imbalance,
        ),
        runtime=runtime_of(settings),
        mesh=mesh,
        sharding=sharding_of(settings, mesh),
        pipeline=pipeline,
        stages=_stages(settings, model, mesh),
    )
    check_combination(pipeline.schedule, mesh.pp, configuration.num_micro_batches, pipeline.virtual_stages)
    return configuration


def signed(settings: Settings, name: str) -> int:
    """A whole number that may be -1."""
    try:
        return int(settings.text(name))
    except ValueError:
        raise InputError(settings.where, name, f"{settings.text(name)!r} is not a whole number") from None


def shard_degree(settings: Settings, num_gpus: int) -> int:
    """Ranks along which parameters are sharded, beside cp: as given, or what is left of the GPUs."""
    given = signed(settings, SHARD)
    others = settings.integer(REPLICATE) * settings.integer(CP) * settings.integer(TP) * settings.integer(PP)
    return given if given > 0 else num_gpus // others


def mesh_of(settings: Settings, model: ModelSpec, num_gpus: int) -> Mesh:
    """The mesh. Without expert parallelism the experts are split over tp, as the dense FFN is."""
    is_moe, ep = model.is_moe, settings.integer(EP)
    tp = settings.integer(TP)
    return Mesh(
        pp=settings.integer(PP),
        dp=settings.integer(REPLICATE) * shard_degree(settings, num_gpus),
        tp=tp,
        cp=settings.integer(CP),
        ep=ep if is_moe else 1,
        etp=(tp if ep == 1 else settings.integer(ETP)) if is_moe else 1,
    )


def global_batch(settings: Settings, dp: int) -> int:
    """Sequences a step: a local batch for each replica unless given."""
    given = signed(settings, GLOBAL_BATCH)
    return given if given > 0 else settings.integer(LOCAL_BATCH) * dp


# The pipeline.


def chunks_of(settings: Settings, model: ModelSpec) -> int:
    """Virtual stages a device."""
    pp = settings.integer(PP)
    if pp == 1:
        return 1
    if settings.has(PARTS):
        return max(1, len(settings.words(PARTS)) // pp)
    per_stage = "parallelism.pipeline_parallel_layers_per_stage"
    if settings.has(per_stage):
        return max(1, ceil((model.num_layers + sum(end_weights(settings))) / settings.integer(per_stage)) // pp)
    return 1 if settings.text(SCHEDULE) in SINGLE_STAGE else 2


def end_weights(settings: Settings) -> tuple[int, int]:
    """Layers that embedding and head count as."""
    first = settings.integer("parallelism.pipeline_parallel_first_stage_less_layers")
    return first, settings.integer("parallelism.pipeline_parallel_last_stage_less_layers")


def pipeline_of(settings: Settings, model: ModelSpec) -> Pipeline:
    """Schedule, virtual stages and micro-batch; without a pipeline a local batch is one micro-batch."""
    if settings.integer(PP) == 1:
        return Pipeline(micro_batch=settings.integer(LOCAL_BATCH))
    kind = SCHEDULES[settings.text(SCHEDULE)]
    return Pipeline(schedule=kind, virtual_stages=chunks_of(settings, model), micro_batch=settings.integer(MICRO_BATCH))


def layers_per_stage(settings: Settings, model: ModelSpec) -> tuple[int, ...]:
    """Layers of each virtual stage: as listed, or evenly with the ends counted, the larger ones in front."""
    if settings.integer(PP) == 1:
        return (model.num_layers,)
    if settings.has(PARTS):
        return tuple(part.count("layers.") for part in settings.words(PARTS))
    stages = settings.integer(PP) * chunks_of(settings, model)
    first, last = end_weights(settings)
    share, rest = divmod(model.num_layers + first + last, stages)
    counts = [share + (stage < rest) for stage in range(stages)]
    counts[0] -= first
    counts[-1] -= last
    if min(counts) < 0:
        raise InputError(settings.where, PP, f"{model.num_layers} layers cannot fill {stages} stages")
    return tuple(counts)


# What each layer does.


def _stages(settings: Settings, model: ModelSpec, mesh: Mesh) -> tuple[tuple[LayerStrategy, ...], ...]:
    counts = layers_per_stage(settings, model)
    policies = recompute_policies(settings, model, counts)
    stages, start = [], 0
    for count in counts:
        layers = zip(model.layers[start : start + count], policies[start : start + count], strict=True)
        stages.append(tuple(_strategy(settings, mesh, layer, policy) for layer, policy in layers))
        start += count
    return tuple(stages)


def recompute_policies(settings: Settings, model: ModelSpec, counts: tuple[int, ...]) -> tuple[Recompute, ...]:
    """The policy of each layer: all alike, or every so many of a process's own layers in full.

    `counts`: layers of the virtual stages. Source: torchtitan counts the layers of all model parts of a process
    (`_layer_sac_count` of activation_checkpoint.py).
    """
    option, num_layers = settings.text("activation_checkpoint.selective_ac_option"), model.num_layers
    match settings.text("activation_checkpoint.mode"):
        case "none":
            return (Recompute.NONE,) * num_layers
        case "full":
            return (Recompute.FULL,) * num_layers
        case "selective" if option.isdecimal() and int(option):
            return _every(int(option), counts, pipeline_of(settings, model), settings.integer(PP))
        case _:
            return (Recompute.EVERY_SECOND_GEMM,) * num_layers


def _every(interval: int, counts: tuple[int, ...], pipeline: Pipeline, num_devices: int) -> tuple[Recompute, ...]:
    """In model order; a device counts through the layers of its virtual stages, of which there are `counts`."""
    of_stage: dict[int, list[Recompute]] = {}
    for stages in placement(pipeline.schedule, num_devices, pipeline.virtual_stages):
        numbers = itertools.count(1)
        for stage in sorted(stages):
            of_stage[stage] = [
                Recompute.NONE if next(numbers) % interval else Recompute.FULL for _ in range(counts[stage])
            ]
    return tuple(policy for stage in range(len(counts)) for policy in of_stage[stage])


def _strategy(settings: Settings, mesh: Mesh, layer: LayerSpec, recompute: Recompute) -> LayerStrategy:
    ring = settings.text("parallelism.context_parallel_rotate_method") == "alltoall"
    deepep = settings.text("parallelism.expert_parallel_comm_backend") == "deepep"
    return LayerStrategy(
        tp=mesh.tp,
        cp=mesh.cp,
        context_method=ContextMethod.RING if ring else ContextMethod.ALL_GATHER,
        ffn_tp=mesh.tp,
        ep=mesh.ep if layer.is_moe else 1,
        etp=mesh.etp if layer.is_moe else 1,
        dispatch=Dispatch.ALL_TO_ALL_DEDUP if deepep else Dispatch.ALL_TO_ALL,
        recompute=recompute,
    )


# Formats, kernels, sharding.


def uses_float8(settings: Settings) -> bool:
    """Whether the linear layers are converted to FP8."""
    converters = settings.words("model.converters")
    return any("float8" in name for name in converters) or settings.on("float8.enable_float8_linear")


def precision_of(settings: Settings) -> Precision:
    """Number format of the products."""
    return Precision.FP8 if uses_float8(settings) else Precision.BF16


def compiles_model(settings: Settings) -> bool:
    """Whether the layers are compiled, which fuses element-wise code."""
    return settings.on("compile.enable") and "model" in (settings.words("compile.components") or ("model",))


def runtime_of(settings: Settings) -> RuntimeSpec:
    """PyTorch FSDP's description with what the options change."""
    words = {
        "no compile": not compiles_model(settings),
        "async TP": settings.on("parallelism.enable_async_tensor_parallel"),
        "fp8 all-gather": uses_float8(settings) and settings.on("quantize.linear.float8.enable_fsdp_float8_all_gather"),
    }
    printed = PrintedOptions(
        framework=RUNTIME,
        precision=precision_of(settings).value,
        words="; ".join(word for word, holds in words.items() if holds),
        routing="force balance" if settings.on("debug.moe_force_load_balance") else "",
    )
    gathers_fp32 = settings.text("training.mixed_precision_param") == "float32"
    return described_runtime(printed, {"parameter_gather_bytes": FP32_BYTES} if gathers_fp32 else {})


def sharding_of(settings: Settings, mesh: Mesh) -> Sharding:
    """FSDP over the sharded ranks and cp; with a pipeline parameters stay gathered unless told otherwise.

    Then gradients are reduced with the last micro-batch, too: ZeRO-1.
    """
    replicate = settings.integer(REPLICATE)
    sharded = mesh.dp // replicate * mesh.cp
    reshard = settings.text("parallelism.fsdp_reshard_after_forward")
    stays = reshard == "never" or (reshard == "default" and mesh.pp > 1)
    if sharded == 1 and mesh.ep == 1:
        return Sharding(zero=ZeroStage.NONE)
    kept = ZeroStage.OPTIMIZER if mesh.pp > 1 else ZeroStage.GRADIENTS
    return Sharding(
        zero=kept if stays else ZeroStage.PARAMETERS,
        shard_degree=sharded if replicate > 1 else 0,
        offload_optimizer=settings.on("training.enable_cpu_offload"),
    )
