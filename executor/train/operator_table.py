"""A run's operators in a few lines: those whose prediction is farthest from what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.costmodel.units import format_time
from meshwright.executor.train.operator_times import OperatorTimes

SHOWN = 8


def worst_operators(operators: Sequence[OperatorTimes], shown: int = SHOWN) -> list[OperatorTimes]:
    """Those that take most of a step away from its prediction, the worst first."""
    return sorted(operators, key=lambda one: -one.difference_s)[:shown]


COLUMNS, COMPARED_COLUMNS = (
    ("part", "pass", "operator", "measured", "predicted", *error, "a step") for error in ((), ("error",))
)
"""The headings of `operator_rows`."""


def operator_rows(operators: Sequence[OperatorTimes], *, comparable: bool) -> list[list[str]]:
    """Their cells: what it is, measured, predicted, error, and the difference a step.

    The error is left out where measured and predicted are not `comparable`, being of different devices.
    """
    return [
        [
            one.part,
            one.phase.value,
            f"{one.name} (again)" if one.recomputes else one.name,
            format_time(one.measured_s),
            format_time(one.predicted_s),
            *([f"{one.error:+.0%}"] if comparable else []),
            format_time(one.difference_s),
        ]
        for one in operators
    ]
