"""Runs a pass in a given order of launches."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from meshwright.costmodel.order.clock import Clock
from meshwright.costmodel.order.grouping import Grouping, unit_times_s
from meshwright.costmodel.order.pass_problem import COMPUTE, NO_LINK, NUM_STREAMS, PassProblem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A pass that has run: `sequence` are the launches in their order; times are by number of the launch.

    `idle_s`: the seconds that computation waits for each stream.
    """

    grouping: Grouping
    sequence: tuple[int, ...]
    time_s: list[float]
    start_s: list[float]
    end_s: list[float]
    idle_s: list[float]
    total_s: float


def replay(problem: PassProblem, grouping: Grouping, sequence: tuple[int, ...]) -> Run:
    """Run the launches in a given order: every stream takes its own, first come, first served.

    `sequence` must be a topological order, on which no set of streams can deadlock.
    """
    times_s = unit_times_s(problem, grouping)
    clock = Clock(problem, grouping, times_s)
    waiting = [len(before) for before in grouping.before]
    queues: list[deque[int]] = [deque() for _ in range(NUM_STREAMS)]
    for number in sequence:
        for stream in streams_of(grouping, number):
            queues[stream].append(number)
    left = len(sequence)
    while left:
        for queue in queues:
            if queue and waiting[queue[0]] == 0 and clock.is_free(queue[0]):
                _start_first(clock, queue[0], [queues[stream] for stream in streams_of(grouping, queue[0])])
        ended = clock.advance()
        left -= len(ended)
        for number in ended:
            for next_ in grouping.after[number]:
                waiting[next_] -= 1
    return Run(
        grouping=grouping,
        sequence=sequence,
        time_s=times_s,
        start_s=clock.start_s,
        end_s=clock.end_s,
        idle_s=clock.idle_s,
        total_s=clock.now_s,
    )


def streams_of(grouping: Grouping, number: int) -> tuple[int, ...]:
    """The streams that a launch occupies."""
    link = grouping.link[number]
    if not grouping.on_compute[number]:
        return (link,)
    return (COMPUTE,) if link == NO_LINK else (COMPUTE, link)


def _start_first(clock: Clock, number: int, queues: list[deque[int]]) -> None:
    """Start a launch if it is the first on all of its streams."""
    if all(queue[0] == number for queue in queues):
        clock.start(number)
        for queue in queues:
            queue.popleft()
