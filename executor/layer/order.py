"""Operators in the order that a plan gives."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.order.launch_order import PassOrder
from meshwright.costmodel.program.operators import Operator


def in_order(operators: Iterable[Operator], order: PassOrder) -> tuple[Operator, ...]:
    """The operators of a pass, launch by launch; what a launch fuses runs one after another, in program order."""
    by_name = {operator.name: operator for operator in operators}
    names = tuple(order.names())
    if set(names) != by_name.keys():
        odd = ", ".join(sorted(set(names) ^ by_name.keys()))
        raise StrategyError("order", "launches", f"not the operators of this pass: {odd}")
    return tuple(by_name[name] for name in names)
