"""From Megatron-LM's arguments to a complete training configuration."""

from __future__ import annotations

from math import prod

from msgspec import UNSET, UnsetType

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.simulate import ScheduleKind, check_combination
from meshwright.costmodel.strategy import AxisOrder, ContextMethod, LayerStrategy, Mesh, Recompute
from meshwright.costmodel.workload import Workload
from meshwright.planner.foreign.megatron.model import model_of
from meshwright.planner.foreign.megatron.recompute import policies
from meshwright.planner.foreign.megatron.runtime import dispatch_of, precision_of, runtime_of, sharding_of
from meshwright.planner.foreign.megatron.stages import layers_per_stage, virtual_stages
from meshwright.planner.foreign.settings import Settings

CONTEXT_METHODS = {"p2p": ContextMethod.RING, "all_gather": ContextMethod.ALL_GATHER, "a2a+p2p": ContextMethod.RING}


def configuration_of(settings: Settings, cluster: ClusterSpec, expert_imbalance: float) -> TrainingConfiguration:
    """The run that the arguments describe on a cluster; an `InputError` where they contradict each other."""
    model, mesh, micro_batch = model_of(settings), mesh_of(settings, cluster), settings.integer("micro_batch_size")
    chunks = virtual_stages(settings)
    pipeline = Pipeline(
        schedule=ScheduleKind.INTERLEAVED if chunks > 1 else ScheduleKind.ONE_F_ONE_B,
        virtual_stages=chunks,
        micro_batch=micro_batch,
    )
    configuration = TrainingConfiguration(
        model=model,
        cluster=cluster,
        workload=Workload(
            global_batch=global_batch(settings, mesh.dp),
            seq_len=settings.integer("seq_length"),
            precision=precision_of(settings),
            expert_imbalance=expert_imbalance,
            capacity_factor=_capacity_factor(settings),
        ),
        runtime=runtime_of(settings),
        mesh=mesh,
        sharding=sharding_of(settings, mesh.dp * mesh.cp * mesh.sp),
        pipeline=pipeline,
        stages=_stages(settings, model, mesh),
    )
    check_combination(pipeline.schedule, mesh.pp, configuration.num_micro_batches, chunks)
    return configuration


def global_batch(settings: Settings, dp: int) -> int:
    """Sequences a step: one micro-batch for each replica unless given."""
    return settings.integer("global_batch_size", settings.integer("micro_batch_size") * dp)


def model_parallel_size(settings: Settings) -> int:
    """GPUs of one replica."""
    axes = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
    return prod(settings.integer(axis) for axis in axes)


def expert_tensor_size(settings: Settings) -> int:
    """Ranks that share an expert: tp unless given."""
    return settings.integer("expert_tensor_parallel_size", settings.integer("tensor_model_parallel_size"))


def ulysses_size(settings: Settings) -> int:
    """How many of the context-parallel ranks exchange heads by all-to-all."""
    method, cp = context_method(settings), settings.integer("context_parallel_size")
    if method == "a2a+p2p":
        sizes = settings.values["hierarchical_context_parallel_sizes"]
        return int(sizes[0]) if isinstance(sizes, tuple) and sizes else 1
    return cp if method == "a2a" else 1


def context_method(settings: Settings) -> str:
    """How keys and values reach queries: of all layers, or of the first."""
    return (settings.words("cp_comm_type") or ("p2p",))[0]


def mesh_of(settings: Settings, cluster: ClusterSpec) -> Mesh:
    """The mesh; data parallelism is what is left of the GPUs."""
    replica, ulysses = model_parallel_size(settings), ulysses_size(settings)
    if cluster.num_gpus % replica:
        problem = f"{cluster.num_gpus} GPUs are not a multiple of tp x pp x cp = {replica}"
        raise InputError(settings.where, "--tensor-model-parallel-size", problem)
    is_moe = settings.integer("num_experts", 0) > 0
    return Mesh(
        pp=settings.integer("pipeline_model_parallel_size"),
        dp=cluster.num_gpus // replica,
        tp=settings.integer("tensor_model_parallel_size"),
        sp=ulysses,
        cp=settings.integer("context_parallel_size") // ulysses,
        ep=settings.integer("expert_model_parallel_size") if is_moe else 1,
        etp=expert_tensor_size(settings) if is_moe else 1,
        order=AxisOrder.DP_OUTERMOST if settings.on("use_tp_pp_dp_mapping") else AxisOrder.PP_OUTERMOST,
    )


def _capacity_factor(settings: Settings) -> float | UnsetType:
    """Rows that every expert computes over its mean share, where inputs are padded to the capacity."""
    factor = settings.number("moe_expert_capacity_factor")
    return UNSET if factor is None or not settings.on("moe_pad_expert_input_to_capacity") else factor


def _stages(settings: Settings, model: ModelSpec, mesh: Mesh) -> tuple[tuple[LayerStrategy, ...], ...]:
    stages, start = [], 0
    for count in layers_per_stage(settings):
        layers = model.layers[start : start + count]
        chosen = policies(settings, tuple(layer.is_moe for layer in layers))
        strategies = [_strategy(settings, mesh, layer, policy) for layer, policy in zip(layers, chosen, strict=True)]
        stages.append(tuple(strategies))
        start += count
    return tuple(stages)


def _strategy(settings: Settings, mesh: Mesh, layer: LayerSpec, recompute: Recompute) -> LayerStrategy:
    return LayerStrategy(
        tp=mesh.tp,
        sp=mesh.sp,
        cp=mesh.cp,
        context_method=CONTEXT_METHODS.get(context_method(settings), ContextMethod.RING),
        sequence_parallel=settings.on("sequence_parallel") or mesh.tp == 1,
        ffn_tp=mesh.tp,
        ep=mesh.ep if layer.is_moe else 1,
        etp=mesh.etp if layer.is_moe else 1,
        dispatch=dispatch_of(settings),
        recompute=recompute,
    )
