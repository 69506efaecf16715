"""How well single operators are predicted: measured samples kept apart, and published micro-benchmarks replayed."""

from __future__ import annotations

from meshwright.planner.validation.operators.held_apart import held_apart_errors
from meshwright.planner.validation.operators.own import MeasuredErrors, own_errors, shipped_errors
from meshwright.planner.validation.operators.published import published_figures, unused_rows
from meshwright.planner.validation.operators.replay import replayed_errors
from meshwright.planner.validation.operators.summary import OperatorErrors, Target, target_of

__all__ = [
    "MeasuredErrors",
    "OperatorErrors",
    "Target",
    "held_apart_errors",
    "own_errors",
    "published_figures",
    "replayed_errors",
    "shipped_errors",
    "target_of",
    "unused_rows",
]
