"""Operators in the order that a plan gives, and on its streams."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.order.launch_order import PassOrder
from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.stream_plan import Placed


def in_order(operators: Iterable[Operator], order: PassOrder) -> tuple[Operator, ...]:
    """The operators of a pass, launch by launch; what a launch fuses runs one after another, in program order."""
    return tuple(placed.operator for placed in on_streams(operators, order))


def on_streams(operators: Iterable[Operator], order: PassOrder) -> tuple[Placed, ...]:
    """The operators of a pass in order, each with its stream.

    Communication that the plan overlaps has the stream of its link, what blocks is launched on the compute stream. Of a
    fused launch, which nothing here runs as one kernel, the communication goes to its link and the rest to the compute
    stream: it occupies both.
    """
    by_name = {operator.name: operator for operator in operators}
    names = tuple(order.names())
    if set(names) != by_name.keys():
        odd = ", ".join(sorted(set(names) ^ by_name.keys()))
        raise StrategyError("order", "launches", f"not the operators of this pass: {odd}")
    placed = []
    for launch in order.launches:
        is_fused = len(launch.operators) > 1
        for operator in (by_name[name] for name in launch.operators):
            placed.append(Placed(operator=operator, stream=operator.resource if is_fused else launch.stream))
    return tuple(placed)
