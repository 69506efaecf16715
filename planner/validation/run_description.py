"""From a published row to a complete training run: the one place where what is not printed is assumed.

Every assumption is the same for all rows of a framework. The list, with reasons: `data/README.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol, TypeVar

import msgspec

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import ModelSpec, with_num_layers
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import schedule_of, stage_memory
from meshwright.costmodel.strategy import ContextMethod, LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.validation.layer_split import layer_split
from meshwright.planner.validation.printed_settings import (
    dispatch_of,
    expert_tensor_degree,
    interleaved,
    runtime_name_of,
    runtime_of,
    settings_of,
    two_chunk_schedule,
)
from meshwright.planner.validation.rows import TrainingRow

CLUSTERS = {
    "h100-sxm": "h100",
    "h100-hbm2e-96gb-500w": "h100-hbm2e",
    "h200-sxm": "h200",
    "h800-sxm": "h800",
    "a100-sxm": "a100",
}
PRECISIONS = {"bf16": Precision.BF16, "fp16": Precision.BF16, "fp8": Precision.FP8}
SHARDINGS = {
    "": ZeroStage.OPTIMIZER,
    "none": ZeroStage.NONE,
    "zero1": ZeroStage.OPTIMIZER,
    "zero2": ZeroStage.GRADIENTS,
    "zero3": ZeroStage.PARAMETERS,
    "hsdp": ZeroStage.PARAMETERS,
}
LEAST_RECOMPUTATION_FIRST = (Recompute.NONE, Recompute.NORM_ACTIVATION, Recompute.FULL)
FORCED = re.compile(r"balance", re.IGNORECASE)
DROPPED = re.compile(r"drop(?!less)|capacity", re.IGNORECASE)
INTERLEAVED = re.compile(r"interleaved", re.IGNORECASE)
PARTIAL = re.compile(r"(\d+) layers", re.IGNORECASE)
BITS_PER_BYTE = 8
SELECTIVE = (
    ("fsdp-torch", Recompute.EVERY_SECOND_GEMM),
    ("megascale-moe", Recompute.SELECTIVE),
    ("save_qkv_proj", Recompute.FULL),
    ("maxtext", Recompute.FFN),
    ("norm|act|mlp|mla_up_proj", Recompute.NORM_ACTIVATION),
)
"""Words of a selective policy, the first that is found counts: the framework, then its own detail."""

Meaning = TypeVar("Meaning")


def describe(row: TrainingRow) -> TrainingConfiguration:
    """The run that a row describes; an `InputError` where a part of it is unknown or contradicts another."""
    candidates = _candidates(row)
    first = next(candidates)
    if fits(first):
        return first
    return next((candidate for candidate in candidates if fits(candidate)), first)


def _candidates(row: TrainingRow) -> Iterator[TrainingConfiguration]:
    """What is printed; then, as far as it leaves them open, experts split over TP and more recomputation."""
    model, cluster, runtime = model_of(row), cluster_of(row), runtime_of(row)
    policies = LEAST_RECOMPUTATION_FIRST if row.recompute == "unknown" else (recompute_of(row),)
    degrees = (row.etp, row.tp) if row.framework == "megatron" and row.etp == 1 and row.ep > 1 else (row.etp,)
    for etp in dict.fromkeys(degrees):
        unfolded = msgspec.structs.replace(row, etp=etp)
        if unfolded.dp * row.cp * row.sp * row.tp % (row.ep * expert_tensor_degree(unfolded)) == 0:
            for recompute in policies:
                yield _configuration(unfolded, model, cluster, runtime, recompute)


def _configuration(
    row: TrainingRow, model: ModelSpec, cluster: ClusterSpec, runtime: RuntimeSpec, recompute: Recompute
) -> TrainingConfiguration:
    pipeline = pipeline_of(row, model)
    split = layer_split(model.num_layers, row.pp * pipeline.virtual_stages, model.mtp_depth)
    return TrainingConfiguration(
        model=model,
        cluster=cluster,
        workload=Workload(
            global_batch=row.global_batch, seq_len=row.seq_len, precision=_known("precision", row, PRECISIONS)
        ),
        runtime=balanced(row, runtime),
        mesh=Mesh(pp=row.pp, dp=row.dp, tp=row.tp, sp=row.sp, cp=row.cp, ep=row.ep, etp=expert_tensor_degree(row)),
        sharding=sharding_of(row),
        pipeline=pipeline,
        stages=_stages(row, strategy_of(row, recompute), split),
    )


def _known(column: str, row: TrainingRow, meanings: dict[str, Meaning]) -> Meaning:
    value = getattr(row, column)
    if value not in meanings:
        raise InputError(row.id, column, f"{value!r} is unknown; expected one of {', '.join(filter(None, meanings))}")
    return meanings[value]


def fits(configuration: TrainingConfiguration) -> bool:
    """Whether the run's peak memory stays within the limit of its GPU."""
    stages = stage_memory(schedule_of(configuration), stage_costs(configuration))
    limit = memory_limit_bytes(configuration.cluster.gpu.usable_memory_bytes)
    return max(stage.total for stage in stages) <= limit


@lru_cache(maxsize=128)
def _model(name: str, num_layers: int) -> ModelSpec:
    model = load_model(name)
    return with_num_layers(model, num_layers) if num_layers else model


def model_of(row: TrainingRow) -> ModelSpec:
    """The preset of that name, cut to the row's number of layers."""
    return _model(row.model, row.num_layers)


@lru_cache(maxsize=128)
def _cluster(name: str, num_gpus: int, gpus_per_node: int, network_gbit_per_s: float) -> ClusterSpec:
    return msgspec.structs.replace(
        load_cluster(name),
        num_gpus=num_gpus,
        gpus_per_node=gpus_per_node,
        network_bytes_per_s=network_gbit_per_s * 1e9 / BITS_PER_BYTE,
    )


def cluster_of(row: TrainingRow) -> ClusterSpec:
    """The preset of the row's GPU, with the row's nodes and network."""
    return _cluster(_known("gpu", row, CLUSTERS), row.num_gpus, row.gpus_per_node, row.network_gbit_per_s)


class RoutedRun(Protocol):
    """What a run prints about routing."""

    @property
    def framework(self) -> str:
        """The runtime description that it starts from."""

    @property
    def routing(self) -> str:
        """How tokens are spread over experts, in the source's words."""


def balanced(row: RoutedRun, runtime: RuntimeSpec) -> RuntimeSpec:
    """Routing that is forced to balance, or dropped to a capacity, loads all ranks alike.

    With a capacity for each expert all sizes are known beforehand, and nothing waits for counts.
    """
    if row.framework == "megascale-moe":
        return runtime
    if DROPPED.search(row.routing):
        return msgspec.structs.replace(runtime, expert_load_deviation=0.0, routing_wait_s=0.0)
    return msgspec.structs.replace(runtime, expert_load_deviation=0.0) if FORCED.search(row.routing) else runtime


def sharding_of(row: TrainingRow) -> Sharding:
    """ZeRO stage and how many ranks share, unless a printed setting says otherwise."""
    printed = [setting.zero for setting in settings_of(row) if setting.zero is not None]
    if keeps_parameters(row):
        return Sharding(zero=ZeroStage.OPTIMIZER)
    zero = printed[-1] if printed else _known("sharding", row, SHARDINGS)
    return Sharding(zero=zero, shard_degree=row.shard_degree if row.sharding == "hsdp" else 0)


def keeps_parameters(row: TrainingRow) -> bool:
    """Torchtitan's stages of a pipeline keep parameters gathered and gradients whole, in FP32, until the step's end.

    reshard_after_forward "default" means not in a pipeline; gradients are reduced with the last micro-batch. That is
    ZeRO-1.
    """
    return row.pp > 1 and runtime_name_of(row) == "fsdp-torch"


def pipeline_of(row: TrainingRow, model: ModelSpec) -> Pipeline:
    """Virtual stages are interleaved; what is not printed is one chunk a device.

    A local batch that is not split (as torchtitan prints it) becomes one micro-batch for each stage.
    """
    printed = two_chunk_schedule(row)
    if printed is not None:
        return Pipeline(schedule=printed, virtual_stages=2, micro_batch=row.micro_batch)
    unprinted = row.virtual_stages == 0 or (row.virtual_stages == 1 and interleaved(row))
    virtual = _most_virtual_stages(row, model) if unprinted else row.virtual_stages
    micro_batch = row.micro_batch
    if row.framework == "fsdp-torch" and row.pp > 1:
        virtual = max(virtual, 2 if INTERLEAVED.search(row.overlap) else 1)
        if row.num_micro_batches == 1 and micro_batch % row.pp == 0:
            micro_batch //= row.pp
    kind = ScheduleKind.INTERLEAVED if virtual > 1 and row.pp > 1 else ScheduleKind.ONE_F_ONE_B
    return Pipeline(schedule=kind, virtual_stages=virtual if row.pp > 1 else 1, micro_batch=micro_batch)


def _most_virtual_stages(row: TrainingRow, model: ModelSpec) -> int:
    """One layer a chunk, where layers and micro-batches allow."""
    each, rest = divmod(model.num_layers, row.pp)
    return 1 if rest or row.num_micro_batches % row.pp else each


def strategy_of(row: TrainingRow, recompute: Recompute) -> LayerStrategy:
    """What every layer does."""
    return LayerStrategy(
        tp=row.tp,
        sp=row.sp,
        cp=row.cp,
        context_method=ContextMethod.ALL_GATHER if row.framework == "fsdp-torch" else ContextMethod.RING,
        sequence_parallel=row.sequence_parallel != "no",
        ffn_tp=row.tp,
        ep=row.ep,
        etp=expert_tensor_degree(row),
        dispatch=dispatch_of(row),
        recompute=recompute,
    )


def recompute_of(row: TrainingRow) -> Recompute:
    """The policy that the source's words come nearest to."""
    if row.recompute == "partial-full":
        return Recompute.NONE
    if row.recompute != "selective":
        return _known("recompute", row, {"none": Recompute.NONE, "full": Recompute.FULL})
    for phrase, policy in SELECTIVE:
        if re.search(phrase, f"{row.framework}: {row.recompute_detail}", re.IGNORECASE):
            return policy
    return Recompute.CORE_ATTENTION


def _stages(row: TrainingRow, strategy: LayerStrategy, split: tuple[int, ...]) -> tuple[tuple[LayerStrategy, ...], ...]:
    """The strategy of each layer; partly full recomputation takes the first layers of each device's first chunk."""
    stages = [[strategy] * count for count in split]
    number = PARTIAL.search(row.recompute_detail)
    if row.recompute == "partial-full" and number:
        full = msgspec.structs.replace(strategy, recompute=Recompute.FULL)
        for stage in stages[: row.pp]:
            chosen = min(int(number[1]), len(stage))
            stage[:chosen] = [full] * chosen
    return tuple(map(tuple, stages))
