"""Single changes of Megatron-LM's arguments that may make a run faster or smaller."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.foreign.framework import Edit
from meshwright.planner.foreign.megatron.model import num_experts
from meshwright.planner.foreign.megatron.recompute import granularity
from meshwright.planner.foreign.megatron.runtime import fp32_gradients
from meshwright.planner.foreign.option_table import MappedOption, Reads, option_of_setting
from meshwright.planner.foreign.settings import Settings, SettingValue
from meshwright.planner.space import divisors

MAX_VIRTUAL = 12
NO_RECOMPUTE: dict[str, SettingValue] = {
    "recompute_granularity": None,
    "recompute_method": None,
    "recompute_num_layers": None,
    "recompute_modules": None,
    "recompute_activations": None,
    "distribute_saved_activations": None,
}
UNEVEN: dict[str, SettingValue] = {
    "decoder_first_pipeline_num_layers": None,
    "decoder_last_pipeline_num_layers": None,
    "pipeline_model_parallel_layout": None,
    "num_layers_per_virtual_pipeline_stage": None,
}
CHUNKS = "num_virtual_stages_per_pipeline_rank"
AXES = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_model_parallel_size",
    "etp": "expert_tensor_parallel_size",
}


def edits(settings: Settings, configuration: TrainingConfiguration) -> Iterator[Edit]:
    """Candidates, legal or not: the check keeps those that break no rule and gain something."""
    yield from _recompute_edits(settings)
    yield from _degree_edits(settings, configuration)
    yield from _chunk_edits(settings, configuration)
    yield from _overlap_edits(settings)
    micro = settings.integer("micro_batch_size")
    for size in {micro * 2, micro // 2} - {0}:
        yield Edit(changes={"micro_batch_size": size})


def _recompute_edits(settings: Settings) -> Iterator[Edit]:
    if granularity(settings):
        yield Edit(changes=NO_RECOMPUTE)
    if granularity(settings) != "full":
        full: dict[str, SettingValue] = {"recompute_granularity": "full", "recompute_method": "uniform"}
        yield Edit(changes=NO_RECOMPUTE | full | {"recompute_num_layers": 1})
    is_moe = num_experts(settings) > 0
    kinds = (("layernorm", "moe_act"), ("moe",)) if is_moe else (("layernorm",), ("mlp",))
    for modules in kinds:
        selective: dict[str, SettingValue] = {"recompute_granularity": "selective", "recompute_modules": modules}
        yield Edit(changes=NO_RECOMPUTE | selective)


def _degree_edits(settings: Settings, configuration: TrainingConfiguration) -> Iterator[Edit]:
    """Each degree doubled or halved, alone or against another one."""
    axes = ("tp", "pp", "cp") if not num_experts(settings) else tuple(AXES)
    for axis in axes:
        for other in (None, *axes):
            if other != axis:
                yield from _moved(settings, configuration, axis, other)


def _moved(settings: Settings, configuration: TrainingConfiguration, axis: str, other: str | None) -> Iterator[Edit]:
    old = {name: getattr(configuration.mesh, name) for name in AXES}
    old["cp"] *= configuration.mesh.sp
    for factor in (2, 4):
        new = old | {axis: old[axis] * factor}
        if other is not None:
            if old[other] % factor:
                continue
            new[other] = old[other] // factor
        yield Edit(changes=_degrees(settings, old, new))
        if other is None and old[axis] % factor == 0:
            yield Edit(changes=_degrees(settings, old, old | {axis: old[axis] // factor}))


def _degrees(settings: Settings, old: dict[str, int], new: dict[str, int]) -> dict[str, SettingValue]:
    changes: dict[str, SettingValue] = {AXES[name]: new[name] for name in new if new[name] != old[name]}
    if num_experts(settings) and new["tp"] != old["tp"]:
        changes["expert_tensor_parallel_size"] = new["etp"]
    if new["tp"] > 1 and not settings.on("sequence_parallel"):
        changes["sequence_parallel"] = True
    if new["pp"] != old["pp"]:
        changes |= {name: None for name in UNEVEN if settings.has(name)}
    if new["pp"] == 1 and settings.has(CHUNKS):
        changes[CHUNKS] = None
    return changes


def _chunk_edits(settings: Settings, configuration: TrainingConfiguration) -> Iterator[Edit]:
    pp = configuration.mesh.pp
    if pp == 1:
        return
    for chunks in divisors(max(1, -(-configuration.model.num_layers // pp))):
        if chunks != configuration.pipeline.virtual_stages and chunks <= MAX_VIRTUAL:
            number = chunks if chunks > 1 else None
            cleared = {name: None for name in UNEVEN if settings.has(name)}
            yield Edit(changes={**cleared, CHUNKS: number})


def _overlap_edits(settings: Settings) -> Iterator[Edit]:
    shards: dict[str, SettingValue] = {"use_distributed_optimizer": True}
    overlaps: dict[str, SettingValue] = {"overlap_grad_reduce": True, "overlap_param_gather": True}
    yield Edit(changes=shards)
    yield Edit(changes={"overlap_grad_reduce": True})
    yield Edit(changes=shards | overlaps)
    if fp32_gradients(settings):
        yield Edit(changes={"grad_reduce_in_bf16": True, "accumulate_allreduce_grads_in_fp32": None})
    tp = settings.integer("tensor_model_parallel_size")
    if tp > 1:
        yield Edit(changes={"sequence_parallel": True})
        yield Edit(changes={"sequence_parallel": True, "tp_comm_overlap": True})
    if settings.integer("context_parallel_size") > 1:
        for method in ("p2p", "all_gather", "a2a"):
            yield Edit(changes={"cp_comm_type": (method,)})
    yield Edit(changes={"optimizer_cpu_offload": True, "use_precision_aware_optimizer": True})
    if num_experts(settings):
        yield from _dispatch_edits()


def _dispatch_edits() -> Iterator[Edit]:
    for kind in ("alltoall", "flex", "allgather"):
        yield Edit(changes={"moe_token_dispatcher_type": kind})
    yield Edit(changes={"overlap_moe_expert_parallel_comm": True})


def write(settings: Settings, changes: dict[str, SettingValue]) -> str:
    """Changes as arguments to add and to drop; what already is so is left out."""
    added, dropped = [], []
    for name, value in changes.items():
        option = option_of_setting(settings.framework)[name]
        if settings.changed({name: value}).values[name] == settings.values[name]:
            continue
        switched_off = option.reads in (Reads.SWITCH, Reads.OFF) and value in (None, option.reads is Reads.OFF)
        if value is None or switched_off:
            dropped.append(option.names[0])
        else:
            added.append(_written(option, value))
    return "; ".join(filter(None, (" ".join(added), f"drop {' '.join(dropped)}" if dropped else "")))


def _written(option: MappedOption, value: SettingValue) -> str:
    if option.arity == "0":
        return option.names[0]
    values = value if isinstance(value, tuple) else (value,)
    return " ".join((option.names[0], *map(str, values)))
