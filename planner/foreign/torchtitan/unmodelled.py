"""Settings of torchtitan with which a run differs from what is predicted."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.model import ModelSpec
from meshwright.planner.foreign.settings import Settings, UnmodelledUse
from meshwright.planner.foreign.torchtitan.configuration import (
    GLOBAL_BATCH,
    LOCAL_BATCH,
    PP,
    REPLICATE,
    SCHEDULE,
    SHARD,
    model_of,
    precision_of,
    signed,
)

SCHEDULES_PREDICTED = {"InterleavedZeroBubble": "Interleaved1F1B", "LoopedBFS": "Interleaved1F1B"}


def unmodelled_settings(settings: Settings) -> tuple[UnmodelledUse, ...]:
    """The settings and how the run differs."""
    return unmodelled_for(settings, model_of(settings))


def unmodelled_for(settings: Settings, model: ModelSpec) -> tuple[UnmodelledUse, ...]:
    """The same with a model, whatever flavor the options name."""
    return tuple(UnmodelledUse(option=option, why=why) for holds, option, why in _differences(settings, model) if holds)


def _differences(settings: Settings, model: ModelSpec) -> Iterator[tuple[bool, str, str]]:
    schedule, pipelined = settings.text(SCHEDULE), settings.integer(PP) > 1
    other = SCHEDULES_PREDICTED.get(schedule, "")
    yield pipelined and bool(other), f"{SCHEDULE} {schedule}", f"predicted as {other}"
    csv = "parallelism.pipeline_parallel_schedule_csv"
    yield bool(settings.text(csv)), csv, f"a schedule of one's own; predicted as {schedule}"
    shard = signed(settings, SHARD)  # -1: what the GPUs leave, which the options do not say
    replicas = settings.integer(REPLICATE) * max(1, shard)
    accumulates = signed(settings, GLOBAL_BATCH) > settings.integer(LOCAL_BATCH) * replicas
    condition = "" if shard > 0 else "if it takes several local batches, "
    drains = f"{condition}the pipeline drains between local batches; predicted as one long pipeline"
    yield pipelined and accumulates, GLOBAL_BATCH, drains
    yield (
        settings.text("training.dtype") == "bfloat16",
        "training.dtype bfloat16",
        "a smaller state; predicted with FP32",
    )
    wide = settings.text("training.mixed_precision_param") == "float32"
    yield wide, "training.mixed_precision_param float32", "products in TF32; predicted as BF16"
    mode, option = (
        settings.text("activation_checkpoint.mode"),
        settings.text("activation_checkpoint.selective_ac_option"),
    )
    budget = f"activation_checkpoint.memory_budget {settings.number('activation_checkpoint.memory_budget')}"
    yield mode == "memory_budget", budget, "the compiler chooses; predicted as selective per operator"
    yield (
        settings.on("training.enable_cpu_offload"),
        "training.enable_cpu_offload",
        "only the optimizer is predicted on the CPU",
    )
    yield mode == "selective" and option == "0", "activation_checkpoint.selective_ac_option 0", "predicted per operator"
    per_operator = mode == "selective" and not option.isdecimal() and model.is_moe
    why = "the products of experts run again, all of them; predicted as every second one, so with more memory"
    yield per_operator, "activation_checkpoint.selective_ac_option op", why
    grouped = "quantize.grouped_mm.float8.fqns"
    separate = model.is_moe and not any("grouped_mm" in name for name in settings.words("model.converters"))
    narrow = precision_of(settings).value == "fp8"
    yield separate and narrow, grouped, "experts stay in BF16 without their converter; predicted in FP8"
