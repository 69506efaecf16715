"""A plan with one choice made otherwise and all else held as far as that goes: what the choice breaks by itself."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import InputError, StrategyError
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import ContextMethod, LayerStrategy, Mesh
from meshwright.planner.draft import changed_configuration, draft_of
from meshwright.planner.explain.choices import AXES
from meshwright.planner.fixes import OFFLOADING, AttentionChoice, FfnChoice, Fixes, OffloadChoice

V_SHAPED = (ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V)
_METHODS = {
    AttentionChoice.RING: ContextMethod.RING,
    AttentionChoice.ALL_GATHER: ContextMethod.ALL_GATHER,
}


def held_configuration(configuration: TrainingConfiguration, fixes: Fixes) -> TrainingConfiguration:
    """The configuration with these choices and no others changed, but for what they force.

    Forced: dp takes up the GPUs that other degrees leave (pp, where dp is pinned); stages are split evenly where their
    number changes; a schedule brings its virtual stages.
    Raises `InputError` where the choices cannot stand beside the rest of the plan.
    """
    draft = draft_of(configuration)
    mesh = _mesh(configuration, fixes)
    strategies = tuple(
        _strategy(layer, strategy, mesh, fixes, keeps_split=_keeps_split(configuration.mesh, mesh, fixes))
        for layer, strategy in zip(configuration.model.layers, draft.strategies, strict=True)
    )
    changed = msgspec.structs.replace(
        draft,
        mesh=mesh,
        sharding=_sharding(configuration.sharding, fixes),
        pipeline=_pipeline(configuration.pipeline, fixes),
        strategies=strategies,
    )
    return changed_configuration(configuration, changed)


def reason_of(error: InputError) -> str:
    """Why choices cannot stand beside the rest of a plan."""
    return f"{error.field}: {error.problem}" if error.field else error.problem


def _mesh(configuration: TrainingConfiguration, fixes: Fixes) -> Mesh:
    mesh, num_gpus = configuration.mesh, configuration.cluster.num_gpus
    degrees = {axis: getattr(fixes, axis) or getattr(mesh, axis) for axis in AXES}
    group = mesh.tp * mesh.sp
    if (fixes.tp is None) is not (fixes.sp is None):  # one of the two is pinned: the other takes what is left of both
        pinned, other = ("tp", "sp") if fixes.tp else ("sp", "tp")
        degrees[other] = max(1, group // degrees[pinned])
    if fixes.attention is AttentionChoice.TENSOR:
        degrees |= {"tp": group, "sp": 1}
    if fixes.attention is AttentionChoice.ULYSSES:
        degrees |= {"tp": 1, "sp": group}
    if fixes.attention is AttentionChoice.DATA:
        degrees |= {"tp": 1, "sp": 1, "cp": 1}
    if fixes.ffn in (FfnChoice.TENSOR, FfnChoice.REPLICATED) and configuration.model.is_moe:
        degrees |= {"ep": 1, "etp": mesh.ep * mesh.etp if fixes.ffn is FfnChoice.TENSOR else 1}
    free = "pp" if fixes.dp and not fixes.pp else "dp"
    others = 1
    for axis in ("tp", "sp", "cp", "pp", "dp"):
        others *= degrees[axis] if axis != free else 1
    if num_gpus % others:
        raise StrategyError("mesh", free, f"product {others} of the other degrees does not divide {num_gpus} GPUs")
    degrees[free] = num_gpus // others
    return msgspec.structs.replace(mesh, **degrees)


def _keeps_split(before: Mesh, after: Mesh, fixes: Fixes) -> bool:
    """Whether layers keep their own tp and sp, which need not be those of embedding and head."""
    shared = fixes.attention in (AttentionChoice.TENSOR, AttentionChoice.ULYSSES)
    return not (fixes.tp or fixes.sp or shared) and after.tp * after.sp == before.tp * before.sp


def _strategy(
    layer: LayerSpec, strategy: LayerStrategy, mesh: Mesh, fixes: Fixes, *, keeps_split: bool
) -> LayerStrategy:
    group = mesh.tp * mesh.sp
    tp, sp = (strategy.tp, strategy.sp) if keeps_split else (mesh.tp, mesh.sp)
    changes: dict[str, object] = {"tp": tp, "sp": sp, "cp": mesh.cp}
    wide = strategy.ffn_tp > strategy.tp or (strategy.ffn_tp == strategy.tp > 1)
    changes["ffn_tp"] = (group if strategy.ffn_tp > strategy.tp else tp) if wide else min(strategy.ffn_tp, tp)
    if fixes.ffn is not None and not layer.is_moe:
        changes["ffn_tp"] = group if fixes.ffn is FfnChoice.TENSOR else 1
    if layer.is_moe:
        changes |= {"ep": mesh.ep, "etp": mesh.etp}
        if fixes.dispatch is not None:
            changes["dispatch"] = fixes.dispatch
    if fixes.recompute is not None:
        changes |= {"recompute": fixes.recompute, "offload": False}
    if fixes.offload is not None:
        policy = fixes.recompute or strategy.recompute
        changes["offload"] = fixes.offload is OffloadChoice.ACTIVATIONS and policy in OFFLOADING
    if fixes.wire is not None and mesh.tp * mesh.sp * mesh.ep * mesh.etp > 1:
        changes["communication"] = fixes.wire
    if fixes.attention in _METHODS:
        changes["context_method"] = _METHODS[fixes.attention]
    return msgspec.structs.replace(strategy, **changes)


def _sharding(sharding: Sharding, fixes: Fixes) -> Sharding:
    if fixes.zero is not None:
        sharding = msgspec.structs.replace(sharding, zero=fixes.zero)
    if fixes.offload is not None:
        sharding = msgspec.structs.replace(sharding, offload_optimizer=fixes.offload is OffloadChoice.OPTIMIZER)
    return sharding


def _pipeline(pipeline: Pipeline, fixes: Fixes) -> Pipeline:
    schedule, virtual_stages = fixes.schedule or pipeline.schedule, fixes.vp or pipeline.virtual_stages
    if fixes.vp and not fixes.schedule:
        several = ScheduleKind.INTERLEAVED if schedule not in V_SHAPED else schedule
        schedule = several if fixes.vp > 1 else ScheduleKind.ONE_F_ONE_B
    if fixes.schedule and not fixes.vp:
        virtual_stages = _virtual_stages(fixes.schedule, virtual_stages)
    return msgspec.structs.replace(
        pipeline, schedule=schedule, virtual_stages=virtual_stages, micro_batch=fixes.mbs or pipeline.micro_batch
    )


def _virtual_stages(schedule: ScheduleKind, before: int) -> int:
    if schedule in V_SHAPED:
        return 2
    return max(2, before) if schedule is ScheduleKind.INTERLEAVED else 1
