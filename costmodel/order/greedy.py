"""Finds an order by starting whatever can start, the longest remaining path first.

What nothing waits for (wgrad, mostly) is a filler: it runs where the paths wait for communication, and at the end.
Which filler runs first is the `Filling`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from enum import Enum
from heapq import heappop, heappush

from meshwright.costmodel.order.clock import EPSILON_S
from meshwright.costmodel.order.grouping import Grouping
from meshwright.costmodel.order.pass_problem import COMPUTE, NO_LINK, NUM_STREAMS, PassProblem


class Filling(Enum):
    """Which filler runs first: the shortest that outlasts the communication under way, the longest, the shortest."""

    FITTING = "fitting"
    LONGEST = "longest"
    SHORTEST = "shortest"


class Greedy:
    """One run by the rule; the clock of `costmodel.order.clock`, without its records, in the loop that searches spend
    most of their time in.

    What could start now lies, by stream, in heaps of (-tail, number), fillers sorted by (seconds, number).
    """

    def __init__(
        self, problem: PassProblem, grouping: Grouping, times_s: list[float], tails_s: list[float], filling: Filling
    ) -> None:
        self.grouping, self.tails_s, self.filling = grouping, tails_s, filling
        self.loss, self.stretch = problem.loss, problem.stretch
        self.links = sorted({link for link in grouping.link if link != NO_LINK})
        self.left_s = list(times_s)
        self.running = [-1] * NUM_STREAMS
        self.waiting = list(map(len, grouping.before))
        self.ready: list[list[tuple[float, int]]] = [[] for _ in range(NUM_STREAMS)]
        self.fillers: list[tuple[float, int]] = []
        self.sequence: list[int] = []

    def run(self) -> tuple[float, tuple[int, ...]]:
        """Seconds of the pass, and the launches in the order of their start."""
        waiting, after = self.waiting, self.grouping.after
        for number, count in enumerate(waiting):
            if count == 0:
                self._make_ready(number)
        left, now_s = len(waiting), 0.0
        while left:
            self._start_what_can()
            step_s, ended = self._advance()
            now_s += step_s
            left -= len(ended)
            for number in ended:
                for next_ in after[number]:
                    waiting[next_] -= 1
                    if not waiting[next_]:
                        self._make_ready(next_)
        return now_s, tuple(self.sequence)

    def _make_ready(self, number: int) -> None:
        grouping = self.grouping
        link = grouping.link[number]
        if not grouping.on_compute[number]:
            heappush(self.ready[link], (-self.tails_s[number], number))
        elif link == NO_LINK and not grouping.after[number]:
            insort(self.fillers, (self.left_s[number], number))
        else:
            heappush(self.ready[COMPUTE], (-self.tails_s[number], number))

    def _start_what_can(self) -> None:
        running, ready = self.running, self.ready
        for stream in self.links:
            if running[stream] < 0 and ready[stream]:
                running[stream] = number = heappop(ready[stream])[1]
                self.sequence.append(number)
        if running[COMPUTE] < 0:
            number = self._next_computation()
            if number >= 0:
                running[COMPUTE] = number
                self.sequence.append(number)
                if self.grouping.link[number] != NO_LINK:
                    running[self.grouping.link[number]] = number

    def _next_computation(self) -> int:
        """The longest path first; a fused kernel whose link is busy lets others go before. -1 where none can start."""
        heap = self.ready[COMPUTE]
        passed = []
        chosen = -1
        while heap:
            entry = heappop(heap)
            link = self.grouping.link[entry[1]]
            if link == NO_LINK or self.running[link] < 0:
                chosen = entry[1]
                break
            passed.append(entry)
        for entry in passed:
            heappush(heap, entry)
        if chosen < 0 and self.fillers:
            chosen = self.fillers.pop(self._filler())[1]
        return chosen

    def _filler(self) -> int:
        """Its place among the fillers."""
        if self.filling is Filling.SHORTEST:
            return 0
        if self.filling is Filling.LONGEST:
            return len(self.fillers) - 1
        left_s = min((self.left_s[number] for number in self.running if number >= 0), default=0.0)
        return min(bisect_left(self.fillers, (left_s, -1)), len(self.fillers) - 1)

    def _advance(self) -> tuple[float, list[int]]:
        """Run to the next end: the seconds until then, and what ends."""
        running, left_s = self.running, self.left_s
        computing = running[COMPUTE]
        beside = computing >= 0 and self.grouping.computes[computing]
        speed, step_s = 1.0, 1e300
        links = []
        for stream in self.links:
            number = running[stream]
            if number >= 0 and number != computing:
                links.append((stream, number))
                if beside:
                    speed -= self.loss[stream]
                    step_s = min(step_s, left_s[number] * self.stretch[stream])
                else:
                    step_s = min(step_s, left_s[number])
        if computing >= 0:
            step_s = min(step_s, left_s[computing] / speed)
        ended = []
        for stream, number in links:
            left_s[number] -= step_s / self.stretch[stream] if beside else step_s
            if left_s[number] <= EPSILON_S:
                running[stream] = -1
                ended.append(number)
        if computing >= 0:
            left_s[computing] -= step_s * speed
            if left_s[computing] <= EPSILON_S:
                self._end_computation(computing)
                ended.append(computing)
        return step_s, ended

    def _end_computation(self, number: int) -> None:
        self.running[COMPUTE] = -1
        if self.grouping.link[number] != NO_LINK:
            self.running[self.grouping.link[number]] = -1
