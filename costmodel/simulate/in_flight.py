"""How many micro-batches' activations each device holds at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TypeAlias

from meshwright.costmodel.simulate.actions import ActionKind
from meshwright.costmodel.simulate.schedule import Schedule
from meshwright.costmodel.value import Value

Counts: TypeAlias = tuple[int, ...]
"""Micro-batches, one number for each chunk of a device."""


class Held(Value, frozen=True, kw_only=True):
    """Micro-batches held at one time, by chunk.

    `total`: from the forward to the end of the last backward action. `late`: those of them whose input gradient is
    under way or done, and whose weight gradient, an action of its own, is not: they hold what it reads.
    """

    total: Counts
    late: Counts


@lru_cache(maxsize=64)
def in_flight(schedule: Schedule) -> tuple[tuple[Counts, ...], ...]:
    """For each device the counts held that no other of its moments exceeds in all chunks.

    A forward adds its micro-batch from its start, the end of the last backward action that needs it frees it.
    """
    return tuple(_maximal(held.total for held in _moments(schedule, device)) for device in range(schedule.num_stages))


@lru_cache(maxsize=64)
def in_flight_held(schedule: Schedule) -> tuple[tuple[Held, ...], ...]:
    """Like `in_flight`, with micro-batches that wait for their weight gradient told apart.

    The peak of any activation memory that grows with the counts is at one of these moments.
    """
    chunks = schedule.num_chunks
    return tuple(
        tuple(
            Held(total=counts[:chunks], late=counts[chunks:])
            for counts in _maximal(held.total + held.late for held in _moments(schedule, device))
        )
        for device in range(schedule.num_stages)
    )


def _moments(schedule: Schedule, device: int) -> Iterator[Held]:
    """What is held while each slot runs."""
    total, late = [0] * schedule.num_chunks, [0] * schedule.num_chunks
    for slot in schedule.order[device]:
        for action in slot:
            if action.kind is ActionKind.FORWARD:
                total[action.chunk] += 1
            if action.kind is ActionKind.BACKWARD_INPUT:
                late[action.chunk] += 1
        yield Held(total=tuple(total), late=tuple(late))
        for action in slot:
            if action.kind.frees_activations:
                total[action.chunk] -= 1
            if action.kind is ActionKind.BACKWARD_WEIGHT:
                late[action.chunk] -= 1


def _maximal(moments: Iterable[Counts]) -> tuple[Counts, ...]:
    """The counts that none of the others exceeds or equals everywhere, largest first."""
    kept: list[Counts] = []
    for counts in sorted(set(moments), reverse=True):
        if not any(all(a >= b for a, b in zip(other, counts, strict=True)) for other in kept):
            kept.append(counts)
    return tuple(kept)
