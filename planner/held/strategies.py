"""The strategies of layers on another mesh: each layer keeps how it splits, over the degrees that are now there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.strategy import ContextMethod, LayerStrategy, Mesh
from meshwright.planner.fixes import AttentionChoice

ATTENTION, DISPATCH = "attention", "dispatch"
MIXED = "mixed"
_METHODS = {AttentionChoice.RING: ContextMethod.RING, AttentionChoice.ALL_GATHER: ContextMethod.ALL_GATHER}


def attention_of(strategy: LayerStrategy) -> str:
    """How a layer shares attention, in the words of `AttentionChoice`; `mixed` where tp and sp split one group."""
    if strategy.tp > 1 and strategy.sp > 1:
        return MIXED
    if strategy.cp > 1:
        ring = strategy.context_method is ContextMethod.RING
        return (AttentionChoice.RING if ring else AttentionChoice.ALL_GATHER).value
    if strategy.sp > 1:
        return AttentionChoice.ULYSSES.value
    return (AttentionChoice.TENSOR if strategy.tp > 1 else AttentionChoice.DATA).value


def attention_degrees(mesh: Mesh, choice: AttentionChoice) -> dict[str, int]:
    """The degrees of a mesh whose group (tp x sp) shares attention in another way."""
    group = mesh.tp * mesh.sp
    if choice is AttentionChoice.TENSOR:
        return {"tp": group, "sp": 1}
    if choice is AttentionChoice.ULYSSES:
        return {"tp": 1, "sp": group}
    if choice in _METHODS and mesh.cp == 1:
        raise StrategyError("layers", ATTENTION, f"{choice} needs context parallelism, the mesh has cp 1; set mesh.cp")
    if choice is AttentionChoice.DATA and mesh.replica_gpus > 1:
        raise StrategyError(
            "layers",
            ATTENTION,
            f"dp shares no sequence, the mesh has tp {mesh.tp} x sp {mesh.sp} x cp {mesh.cp}; set mesh.tp, mesh.sp and"
            " mesh.cp to 1",
        )
    return {}


def held_strategy(
    strategy: LayerStrategy, layer: LayerSpec, before: Mesh, after: Mesh, given: Mapping[str, Any]
) -> LayerStrategy:
    """The strategy on the mesh `after`, with the given fields.

    A layer that split attention as the mesh `before` did follows the mesh; one whose group was all tp or all sp keeps
    that. Dense weights stay split over tp, over the group, or not at all; experts follow ep and etp.
    """
    changes: dict[str, Any] = {}
    if (before.tp, before.sp, before.cp) != (after.tp, after.sp, after.cp):
        changes = _split(strategy, *_degrees(strategy, before, after), after)
    if layer.is_moe and (before.ep, before.etp) != (after.ep, after.etp):
        changes |= {"ep": after.ep, "etp": after.etp}
    changes |= _fields(strategy, layer, after, given)
    return msgspec.structs.replace(strategy, **changes) if changes else strategy


def _fields(strategy: LayerStrategy, layer: LayerSpec, mesh: Mesh, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the given fields are in this layer; only experts are dispatched to."""
    choice = given.get(ATTENTION)
    changes: dict[str, Any] = {}
    if choice is AttentionChoice.TENSOR:
        changes = _split(strategy, mesh.tp * mesh.sp, 1, mesh)
    elif choice is AttentionChoice.ULYSSES:
        changes = _split(strategy, 1, mesh.tp * mesh.sp, mesh)
    elif choice in _METHODS:
        changes = {"context_method": _METHODS[choice]}
    skipped = (ATTENTION,) if layer.is_moe else (ATTENTION, DISPATCH)
    return changes | {name: value for name, value in given.items() if name not in skipped}


def _degrees(strategy: LayerStrategy, before: Mesh, after: Mesh) -> tuple[int, int]:
    """The degrees tp and sp of a layer on the mesh `after`."""
    group = after.tp * after.sp
    if (strategy.tp, strategy.sp) == (before.tp, before.sp):
        return after.tp, after.sp
    if strategy.sp == 1:
        return group, 1
    return (1, group) if strategy.tp == 1 else (after.tp, after.sp)


def _split(strategy: LayerStrategy, tp: int, sp: int, mesh: Mesh) -> dict[str, int]:
    """Degrees of a layer, with dense weights split over what they were split over."""
    ffn_tp = strategy.ffn_tp
    if ffn_tp == strategy.tp:
        ffn_tp = tp
    elif ffn_tp == strategy.tp * strategy.sp:
        ffn_tp = tp * sp
    elif ffn_tp == strategy.replica_gpus:
        ffn_tp = mesh.replica_gpus
    return {"tp": tp, "sp": sp, "cp": mesh.cp, "ffn_tp": ffn_tp}
