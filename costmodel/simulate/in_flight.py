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

    `whole`: between the forward and the end of the (input-gradient) backward; `weight_only`: between the input and the
    weight gradient, where only what the weight gradient reads is needed.
    """

    whole: Counts
    weight_only: Counts

    @property
    def total(self) -> Counts:
        """Both, the safe count when what the weight gradient reads is not told apart."""
        return tuple(map(sum, zip(self.whole, self.weight_only, strict=True)))


@lru_cache(maxsize=64)
def in_flight(schedule: Schedule) -> tuple[tuple[Counts, ...], ...]:
    """For each device the counts held that no other of its moments exceeds in all chunks.

    A forward adds its micro-batch from its start, the end of the last backward action that needs it frees it. The
    peak of any activation memory that grows with the counts is at one of these moments.
    """
    return tuple(_maximal(held.total for held in _moments(schedule, device)) for device in range(schedule.num_stages))


@lru_cache(maxsize=64)
def in_flight_held(schedule: Schedule) -> tuple[tuple[Held, ...], ...]:
    """Like `in_flight`, with micro-batches that wait only for their weight gradient told apart."""
    chunks = schedule.num_chunks
    return tuple(
        tuple(
            Held(whole=counts[:chunks], weight_only=counts[chunks:])
            for counts in _maximal(held.whole + held.weight_only for held in _moments(schedule, device))
        )
        for device in range(schedule.num_stages)
    )


def _moments(schedule: Schedule, device: int) -> Iterator[Held]:
    """What is held while each slot runs."""
    whole, weight_only = [0] * schedule.num_chunks, [0] * schedule.num_chunks
    for slot in schedule.order[device]:
        for action in slot:
            if action.kind is ActionKind.FORWARD:
                whole[action.chunk] += 1
        yield Held(whole=tuple(whole), weight_only=tuple(weight_only))
        for action in slot:
            if action.kind.sends_gradient:
                whole[action.chunk] -= 1
            if action.kind is ActionKind.BACKWARD_INPUT:
                weight_only[action.chunk] += 1
            if action.kind is ActionKind.BACKWARD_WEIGHT:
                weight_only[action.chunk] -= 1


def _maximal(moments: Iterable[Counts]) -> tuple[Counts, ...]:
    """The counts that none of the others exceeds or equals everywhere, largest first."""
    kept: list[Counts] = []
    for counts in sorted(set(moments), reverse=True):
        if not any(all(a >= b for a, b in zip(other, counts, strict=True)) for other in kept):
            kept.append(counts)
    return tuple(kept)
