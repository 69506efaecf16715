"""What solving a point may cost, counted and not timed: equal problems end at the same place on every machine.

A unit is about a millisecond on the machine of `benchmarks/planning.json`; HiGHS's own work differs by some ten times
from problem to problem. HiGHS counts nothing by which integer programs could be limited in proportion to their time,
but asks at fixed places of its search whether to stop; these are counted.
"""

from __future__ import annotations

from math import inf

SIMPLEX_ITERATION = 0.05
INTERRUPTION_POINT = 2.0
INTERRUPTION_POINT_NONZERO = 0.002
"""More for every number other than 0 in the program's matrix."""

PRESOLVED_NONZERO = 0.01
"""Of an integer program: HiGHS's presolve cannot be stopped part way, so that its cost is taken before."""

SIMULATED_SLOT = 0.001
"""Of a virtual stage and micro-batch: one simulation of a step with its longest path."""


class Effort:
    """A budget that is spent; never negative."""

    def __init__(self, left: float = inf) -> None:
        self.left = max(0.0, left)

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0.0

    def spend(self, amount: float) -> None:
        """Take so much, or what is left."""
        self.left = max(0.0, self.left - amount)

    def times(self, amount: float) -> float:
        """How often so much can be spent."""
        return self.left / amount
