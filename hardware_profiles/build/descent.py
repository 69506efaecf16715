"""Figures of a law that make an error least: coordinate descent by shrinking factors, the same result everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

FIRST_STEP, LAST_STEP = 0.3, 1e-3
DIGITS = 4

Figures = dict[str, float]


class Bounds(NamedTuple):
    """Where a figure starts, and its least and greatest value."""

    start: float
    least: float
    most: float


def descended(bounds: Mapping[str, Bounds], error: Callable[[Figures], float]) -> Figures:
    """Positive figures within their bounds at a local minimum of `error`, rounded to four digits.

    Each figure in turn is made larger or smaller by a factor where that lowers the error; a round that lowers nothing
    halves the step. No derivative: whole tiles make errors jump.
    """
    figures = {name: bound.start for name, bound in bounds.items()}
    least, step = error(figures), FIRST_STEP
    while step > LAST_STEP:
        before = least
        for name, bound in bounds.items():
            for factor in (1.0 + step, 1.0 / (1.0 + step)):
                other = figures | {name: min(bound.most, max(bound.least, figures[name] * factor))}
                if (found := error(other)) < least:
                    figures, least = other, found
                    break
        if least == before:
            step /= 2.0
    return {name: float(f"{value:.{DIGITS}g}") for name, value in figures.items()}
