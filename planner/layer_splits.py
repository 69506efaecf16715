"""How layers split a micro-batch over tp and sp: the mesh has the split of embedding and head, which may be another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.planner.plan import Plan

ENDS = "embedding and head"


def layers_mesh(mesh: Mesh, strategies: Iterable[LayerStrategy]) -> Mesh:
    """The mesh as most layers split it.

    >>> layers_mesh(Mesh(dp=4, sp=2), [LayerStrategy(tp=2), LayerStrategy(tp=2), LayerStrategy(sp=2)])
    Mesh(pp=1, dp=4, tp=2, sp=1, cp=1, ep=1, etp=1, order=<AxisOrder.PP_OUTERMOST: 'pp-outermost'>)
    """
    tp, sp = _splits(strategies).most_common(1)[0][0]
    return msgspec.structs.replace(mesh, tp=tp, sp=sp) if tp * sp == mesh.tp * mesh.sp else mesh


def other_splits(mesh: Mesh, strategies: Iterable[LayerStrategy]) -> dict[str, str]:
    """Who splits otherwise than most layers, and how.

    >>> other_splits(Mesh(dp=4, sp=2), [LayerStrategy(tp=2), LayerStrategy(tp=2), LayerStrategy(sp=2)])
    {'1 layer': 'sp 2', 'embedding and head': 'sp 2'}
    """
    (most, _), *others = _splits(strategies).most_common()
    found = {f"{count} layer{'s' if count > 1 else ''}": _words(*split) for split, count in others}
    ends = mesh.tp, mesh.sp
    return found if ends == most else found | {ENDS: _words(*ends)}


def plan_strategies(plan: Plan) -> list[LayerStrategy]:
    """The strategy of each layer of a plan."""
    return [group.strategy for group in plan.layers for _ in range(group.num_layers)]


def strategies_of(configuration: TrainingConfiguration) -> list[LayerStrategy]:
    """The strategy of each layer of a configuration."""
    return list(chain.from_iterable(configuration.stages))


def _splits(strategies: Iterable[LayerStrategy]) -> Counter[tuple[int, int]]:
    return Counter((strategy.tp, strategy.sp) for strategy in strategies)


def _words(tp: int, sp: int) -> str:
    named = [f"{axis} {degree}" for axis, degree in (("tp", tp), ("sp", sp)) if degree > 1]
    return " x ".join(named) or "one rank"
