"""The clock of one pass: launches run on their streams, beside each other at the speeds that interference leaves.

Between two moments at which some launch starts or ends all speeds are constant. Computation beside communication runs
at 1 - sum of the losses of the busy links; communication beside computation at 1 / stretch; a fused kernel has its own
interference in its duration and is slowed by other links as computation is.
"""

from __future__ import annotations

from meshwright.costmodel.order.grouping import Grouping
from meshwright.costmodel.order.pass_problem import COMMUNICATING, COMPUTE, COPYING, NO_LINK, NUM_STREAMS, PassProblem

EPSILON_S = 1e-13
"""Launches that would end this close together end together."""


class Clock:
    """Time, what runs, and how much of it is left. Launches are started by the caller and end by themselves."""

    def __init__(self, problem: PassProblem, grouping: Grouping, times_s: list[float]) -> None:
        self.grouping = grouping
        self.now_s = 0.0
        self.running = [-1] * NUM_STREAMS
        self.left_s = list(times_s)
        self.start_s = [0.0] * len(times_s)
        self.end_s = [0.0] * len(times_s)
        self.idle_s = [0.0] * NUM_STREAMS
        self._loss, self._stretch = problem.loss, problem.stretch

    def is_free(self, number: int) -> bool:
        """Whether the streams of a launch are idle."""
        if self.grouping.on_compute[number] and self.running[COMPUTE] >= 0:
            return False
        link = self.grouping.link[number]
        return link == NO_LINK or self.running[link] < 0

    def start(self, number: int) -> None:
        """Start a launch whose streams are idle."""
        if self.grouping.on_compute[number]:
            self.running[COMPUTE] = number
        if self.grouping.link[number] != NO_LINK:
            self.running[self.grouping.link[number]] = number
        self.start_s[number] = self.now_s

    def advance(self) -> tuple[int, ...]:
        """Run to the next end; the launches that end there."""
        computing = self.running[COMPUTE]
        links = [(number, stream) for stream, number in enumerate(self.running) if number >= 0 and number != computing]
        if not links:
            self.now_s += self.left_s[computing]
            self._end(computing)
            return (computing,)
        return self._advance_links(computing, links)

    def _advance_links(self, computing: int, links: list[tuple[int, int]]) -> tuple[int, ...]:
        """Some communication runs, alone or beside computation."""
        left_s = self.left_s
        if computing >= 0 and self.grouping.computes[computing]:
            speeds = [(number, 1.0 / self._stretch[stream]) for number, stream in links]
            speeds.append((computing, 1.0 - sum(self._loss[stream] for _, stream in links)))
        else:
            speeds = [(number, 1.0) for number, _ in links]
            if computing >= 0:
                speeds.append((computing, 1.0))
        step_s = min(left_s[number] / speed for number, speed in speeds)
        self.now_s += step_s
        if computing < 0:
            self._note_idle(step_s)
        ended = []
        for number, speed in speeds:
            left_s[number] -= step_s * speed
            if left_s[number] <= EPSILON_S:
                self._end(number)
                ended.append(number)
        return tuple(ended)

    def _note_idle(self, step_s: float) -> None:
        """Computation waits: for the links that communicate, in equal shares; for copies only where none does."""
        busy = [stream for stream in COMMUNICATING if self.running[stream] >= 0] or [COPYING]
        for stream in busy:
            self.idle_s[stream] += step_s / len(busy)

    def _end(self, number: int) -> None:
        self.end_s[number] = self.now_s
        if self.grouping.on_compute[number]:
            self.running[COMPUTE] = -1
        if self.grouping.link[number] != NO_LINK:
            self.running[self.grouping.link[number]] = -1
