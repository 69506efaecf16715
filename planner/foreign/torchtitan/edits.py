"""Single changes of torchtitan's options that may make a run faster or smaller."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.foreign.framework import Edit
from meshwright.planner.foreign.settings import Settings, SettingValue
from meshwright.planner.foreign.torchtitan.configuration import (
    CP,
    EP,
    ETP,
    GLOBAL_BATCH,
    LOCAL_BATCH,
    MICRO_BATCH,
    PP,
    SCHEDULE,
    SHARD,
    TP,
    global_batch,
)

MODE, OPTION = "activation_checkpoint.mode", "activation_checkpoint.selective_ac_option"
RESHARD = "parallelism.fsdp_reshard_after_forward"
PER_STAGE, PARTS = "parallelism.pipeline_parallel_layers_per_stage", "parallelism.module_fqns_per_model_part"


def edits(settings: Settings, configuration: TrainingConfiguration) -> Iterator[Edit]:
    """Candidates, legal or not, at the same global batch."""
    for edit in _candidates(settings, configuration):
        yield _same_batch(settings, configuration, edit)


def _same_batch(settings: Settings, configuration: TrainingConfiguration, edit: Edit) -> Edit:
    """The edit with a global batch beside it, where that would change otherwise."""
    changed, wanted = settings.changed(edit.changes), configuration.workload.global_batch
    others = prod(changed.integer(name) for name in (TP, CP, PP))
    if global_batch(changed, max(1, configuration.cluster.num_gpus // others)) == wanted:
        return edit
    return Edit(changes={GLOBAL_BATCH: str(wanted), **edit.changes})


def _candidates(settings: Settings, configuration: TrainingConfiguration) -> Iterator[Edit]:
    for mode, option in (("none", None), ("selective", "op"), ("selective", "2"), ("full", None)):
        yield Edit(changes={MODE: mode, **({OPTION: option} if option else {})})
    local = settings.integer(LOCAL_BATCH)
    for size in {local * 2, local // 2} - {0}:
        yield Edit(changes={LOCAL_BATCH: size})
    yield from _degree_edits(settings, configuration)
    yield from _pipeline_edits(settings)
    for reshard in ("always", "never"):
        yield Edit(changes={RESHARD: reshard})
    compiled: dict[str, SettingValue] = {"compile.enable": True, "compile.components": ("model", "loss")}
    yield Edit(changes=compiled)
    if settings.integer(TP) > 1:
        yield Edit(changes=compiled | {"parallelism.enable_async_tensor_parallel": True})
    if settings.integer(EP) > 1:
        yield Edit(changes={"parallelism.expert_parallel_comm_backend": "deepep"})


def _degree_edits(settings: Settings, configuration: TrainingConfiguration) -> Iterator[Edit]:
    """Each degree doubled or halved; the shards take up what changes."""
    axes = (TP, CP, PP, EP) if configuration.model.is_moe else (TP, CP, PP)
    local = settings.integer(LOCAL_BATCH)
    for axis in axes:
        degree = settings.integer(axis)
        for new in {degree * 2, degree * 4, degree // 2} - {0}:
            changes: dict[str, SettingValue] = {axis: new} | ({SHARD: "-1"} if settings.text(SHARD) != "-1" else {})
            yield Edit(changes=changes)
            if axis != EP and local * new % degree == 0:
                yield Edit(changes=changes | {LOCAL_BATCH: local * new // degree})
    if settings.integer(EP) > 1 and settings.integer(TP) > 1:
        for etp in (1, settings.integer(TP)):
            yield Edit(changes={ETP: etp})


def _pipeline_edits(settings: Settings) -> Iterator[Edit]:
    if settings.integer(PP) == 1:
        return
    micro = settings.integer(MICRO_BATCH)
    for size in {micro * 2, micro // 2} - {0}:
        yield Edit(changes={MICRO_BATCH: size})
    cleared = {name: None for name in (PER_STAGE, PARTS) if settings.has(name)}
    for schedule in ("1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV"):
        yield Edit(changes={**cleared, SCHEDULE: schedule})


def write(settings: Settings, changes: dict[str, SettingValue]) -> str:
    """Changes as torchtitan's command line takes them; what already is so is left out."""
    parts = []
    for name, value in changes.items():
        if settings.changed({name: value}).values[name] == settings.values[name]:
            continue
        parts.append(f"drop {name}" if value is None else f"--{name} {_text(value)}")
    return "; ".join(parts).replace("; --", " --")


def _text(value: SettingValue) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
