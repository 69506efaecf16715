"""The engine: a static graph of events, each at the latest of its predecessors' times plus a delay.

A delay is a linear combination of duration terms with fixed coefficients. Few combinations differ, so each is stored
once, as a *class*, and an edge names its class. Every event has two predecessors; one that waits for more is preceded
by events of its own that gather them in pairs, one that waits for fewer names one twice. With that, the time of all
events is one short loop, and the longest path one walk back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.simulate.durations import Array

Combination: TypeAlias = tuple[tuple[int, int], ...]
"""(index of a term, coefficient), summed."""

Edge: TypeAlias = tuple[int, int]
"""(event waited for, class of the delay)."""

START = 0
"""The event at time 0."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EventGraph:
    """Events 0 (at time 0), 1, ... in topological order; the last is the end.

    `first`, `second`: predecessors of events 1, 2, ...; `first_class`, `second_class`: classes of the delays.
    Class c sums `coefficients[k] * term[terms[k]]` over the k with `classes[k] == c`.
    """

    first: list[int]
    second: list[int]
    first_class: npt.NDArray[np.int64]
    second_class: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    terms: npt.NDArray[np.int64]
    coefficients: Array
    num_classes: int

    def delays(self, term_values: Array) -> Array:
        """Seconds of each class."""
        return _summed(self.classes, self.coefficients * term_values[self.terms], self.num_classes)

    def times(self, term_values: Array) -> list[float]:
        """The time of every event."""
        delays = self.delays(term_values)
        times = [0.0]
        append = times.append
        for a, delay_a, b, delay_b in zip(
            self.first, delays[self.first_class].tolist(), self.second, delays[self.second_class].tolist(), strict=True
        ):
            after_a = times[a] + delay_a
            after_b = times[b] + delay_b
            append(after_a if after_a >= after_b else after_b)
        return times

    def longest_path(self, term_values: Array, times: Sequence[float]) -> Array:
        """How often the path that sets the end pays each term; of equal paths the one through first predecessors."""
        delays = self.delays(term_values).tolist()
        counts = np.zeros(self.num_classes)
        event = len(self.first)
        while event:
            a, class_a = self.first[event - 1], self.first_class[event - 1]
            b, class_b = self.second[event - 1], self.second_class[event - 1]
            from_first = times[a] + delays[class_a] >= times[b] + delays[class_b]
            event, paid = (a, class_a) if from_first else (b, class_b)
            counts[paid] += 1.0
        return _summed(self.terms, self.coefficients * counts[self.classes], len(term_values))


def _summed(places: npt.NDArray[np.int64], values: Array, size: int) -> Array:
    """The sum of the values at each place."""
    return np.bincount(places, values, minlength=size).astype(np.float64, copy=False)


class EventGraphBuilder:
    """Adds events in topological order."""

    def __init__(self) -> None:
        self._classes: dict[Combination, int] = {(): 0}
        self._events: list[tuple[Edge, Edge]] = []

    def delay(self, *combinations: Combination) -> int:
        """The class that sums the combinations."""
        coefficients: dict[int, int] = {}
        for term, coefficient in (pair for combination in combinations for pair in combination):
            coefficients[term] = coefficients.get(term, 0) + coefficient
        combined = tuple(sorted((term, value) for term, value in coefficients.items() if value))
        return self._classes.setdefault(combined, len(self._classes))

    def event(self, edges: Sequence[Edge]) -> int:
        """A new event after all the edges; its number."""
        last = edges[0]
        for edge in edges[1:-1]:
            self._events.append((last, edge))
            last = (len(self._events), 0)
        self._events.append((last, edges[-1]))
        return len(self._events)

    def build(self) -> EventGraph:
        """The graph whose end is the newest event."""
        rows = [(number, *pair) for combination, number in self._classes.items() for pair in combination]
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        edges = np.array(self._events, dtype=np.int64).reshape(-1, 4)
        return EventGraph(
            first=edges[:, 0].tolist(),
            second=edges[:, 2].tolist(),
            first_class=edges[:, 1].copy(),
            second_class=edges[:, 3].copy(),
            classes=table[:, 0].copy(),
            terms=table[:, 1].copy(),
            coefficients=table[:, 2].astype(np.float64),
            num_classes=len(self._classes),
        )
