"""Shares the time that is left among the samples that are left."""

from __future__ import annotations

from collections.abc import Callable

LEAST_S = 0.02
MOST_S = 0.05
OVERHEAD_S = 0.05
"""Making inputs ready, capturing a graph and keeping the GPU busy, beside the time that is measured."""


class Pace:
    """Seconds for each sample so that all are done by `budget_s` after the start, within sensible bounds."""

    def __init__(self, budget_s: float, num_samples: int, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.end_s = clock() + budget_s
        self.left = num_samples

    def next_s(self) -> float:
        """Seconds for the next sample. Early samples overrun a little: the average is what is held."""
        share = (self.end_s - self.clock()) / max(1, self.left) - OVERHEAD_S
        self.left -= 1
        return max(LEAST_S, min(MOST_S, share))
