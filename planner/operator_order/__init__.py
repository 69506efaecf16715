"""Finds the order of a layer's operators: local search from list scheduling, and branch and bound that proves it."""

from meshwright.planner.operator_order.layers import (
    layer_order,
    order_gap,
    ordered_configuration,
    parts_of,
    stored,
)
from meshwright.planner.operator_order.solve import SolvedPass, solve_pass

__all__ = [
    "SolvedPass",
    "layer_order",
    "order_gap",
    "ordered_configuration",
    "parts_of",
    "solve_pass",
    "stored",
]
