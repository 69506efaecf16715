"""What waits for what when the operators of a pass run on several streams: worked out once, from the plan's launches.

A stream runs what it is given in order. Between streams an operator waits for the events of those that write what it
reads, and only where nothing that its stream has waited for before says so already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meshwright.costmodel.program.operators import CopyWork, Operator, Resource

BEGIN = -1
"""The place of all that the compute stream was given before the pass."""

UNKNOWN = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An operator and the stream that it is issued to."""

    operator: Operator
    stream: Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStep:
    """An operator on its stream.

    waits: places of the earlier steps of other streams (or BEGIN) that its stream waits for first. records: another
    stream waits for it, so that an event is recorded behind it.
    """

    operator: Operator
    stream: Resource
    waits: tuple[int, ...]
    records: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPass:
    """A pass, in the order in which the host issues it.

    begins: some stream waits for what the compute stream was given before. ends: places that the compute stream waits
    for in the end; it then is behind all that the pass has done on any stream.
    """

    steps: tuple[StreamStep, ...]
    begins: bool
    ends: tuple[int, ...]


def plan_streams(placed: Sequence[Placed]) -> StreamPass:
    """The waits of a pass whose operators are issued in this order.

    An operator waits for all earlier ones that write what it reads. One that adds to a tensor (several may write one
    gradient) waits for who has written it before. What no operator of the pass writes was there when it began, as is
    what a copy to or from the host moves: it is of another layer.
    """
    clocks, writers, waits = _Clocks(), dict[str, list[int]](), list[tuple[int, ...]]()
    for place, one in enumerate(placed):
        needed = {source for name in one.operator.reads for source in writers.get(name, (BEGIN,))}
        needed.update(source for name in one.operator.writes for source in writers.get(name, ()))
        if isinstance(one.operator.work, CopyWork):
            needed.add(BEGIN)
        waits.append(clocks.wait(one.stream, needed))
        clocks.launch(one.stream, place)
        for name in one.operator.writes:
            writers.setdefault(name, []).append(place)
    ends = clocks.wait(Resource.COMPUTE, clocks.latest())
    waited = {source for sources in (*waits, ends) for source in sources}
    steps = tuple(
        StreamStep(operator=one.operator, stream=one.stream, waits=sources, records=place in waited)
        for place, (one, sources) in enumerate(zip(placed, waits, strict=True))
    )
    return StreamPass(steps=steps, begins=BEGIN in waited, ends=ends)


class _Clocks:
    """How far each stream is known to be behind every other, as the place of the latest step there: vector clocks.

    Source: Mattern, Virtual time and global states of distributed systems, 1989.
    """

    def __init__(self) -> None:
        self._known = {stream: dict.fromkeys(Resource, UNKNOWN) for stream in Resource}
        self._known[Resource.COMPUTE][Resource.COMPUTE] = BEGIN
        self._at = {BEGIN: dict(self._known[Resource.COMPUTE])}
        self._stream_of = {BEGIN: Resource.COMPUTE}

    def wait(self, stream: Resource, needed: Iterable[int]) -> tuple[int, ...]:
        """Put a stream behind some places; those that it has to wait for, latest first: they may cover the others."""
        known, waits = self._known[stream], []
        for place in sorted(needed, reverse=True):
            if known[self._stream_of[place]] < place:
                waits.append(place)
                for other, reached in self._at[place].items():
                    known[other] = max(known[other], reached)
        return tuple(waits)

    def launch(self, stream: Resource, place: int) -> None:
        """Give a stream a step."""
        self._known[stream][stream] = place
        self._at[place] = dict(self._known[stream])
        self._stream_of[place] = stream

    def latest(self) -> list[int]:
        """The last step of every stream that has one."""
        return [known[stream] for stream, known in self._known.items() if known[stream] > BEGIN]
