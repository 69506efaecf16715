"""Keys of the choices of a plan: mesh, sharding of state, pipeline, and what layers do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import AxisOrder, Dispatch, LayerStrategy, Recompute, ZeroStage
from meshwright.planner.change import Change, Read, choice, count, count_or_none, field, given, switch
from meshwright.planner.draft import Draft
from meshwright.planner.fixes import AttentionChoice
from meshwright.planner.held.mesh import AXES
from meshwright.planner.held.strategies import ATTENTION, DISPATCH, attention_of
from meshwright.planner.layer_splits import layers_mesh

NONE = "none"


def _degree(axis: str) -> Change:
    return given(count, f"mesh.{axis}", lambda draft: getattr(layers_mesh(draft.mesh, draft.strategies), axis))


def _of_layers(read: Read, name: str, of: Callable[[LayerStrategy], Any], *, experts: bool = False) -> Change:
    """A choice that all layers (or all with experts) make alike; before, it may differ between layers."""

    def known(draft: Draft) -> Any:  # noqa: ANN401  what the field holds
        layers = zip(draft.model.layers, draft.strategies, strict=True)
        return _joined(of(strategy) for layer, strategy in dict.fromkeys(layers) if _has(layer, experts))

    return given(read, f"layers.{name}", known)


def _has(layer: LayerSpec, experts: bool) -> bool:
    return layer.is_moe or not experts


def _joined(values: Iterable[Any]) -> Any:  # noqa: ANN401
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0]
    return ", ".join(str(getattr(value, "value", value)) for value in distinct) or NONE


def _field_of(name: str) -> Callable[[LayerStrategy], Any]:
    return lambda strategy: getattr(strategy, name)


def _choice_of_layers(kind: type[StrEnum], name: str, *, experts: bool = False) -> Change:
    return _of_layers(choice(kind), name, _field_of(name), experts=experts)


STRATEGY_CHANGES: dict[str, Change] = {
    **{f"mesh.{axis}": _degree(axis) for axis in AXES},
    "mesh.order": field(choice(AxisOrder), "mesh", "order"),
    "sharding.zero": field(choice(ZeroStage), "sharding", "zero"),
    "sharding.shard_degree": field(count_or_none, "sharding", "shard_degree"),
    "sharding.offload_optimizer": field(switch, "sharding", "offload_optimizer"),
    "pipeline.schedule": field(choice(ScheduleKind), "pipeline", "schedule"),
    "pipeline.virtual_stages": field(count, "pipeline", "virtual_stages"),
    "pipeline.micro_batch_size": field(count, "pipeline", "micro_batch"),
    f"layers.{ATTENTION}": _of_layers(choice(AttentionChoice), ATTENTION, attention_of),
    "layers.sequence_parallel": _of_layers(switch, "sequence_parallel", _field_of("sequence_parallel")),
    "layers.ffn_tp": _of_layers(count, "ffn_tp", _field_of("ffn_tp")),
    f"layers.{DISPATCH}": _choice_of_layers(Dispatch, DISPATCH, experts=True),
    "layers.recompute": _choice_of_layers(Recompute, "recompute"),
    "layers.communication": _choice_of_layers(Precision, "communication"),
    "layers.offload": _of_layers(switch, "offload", _field_of("offload")),
}
