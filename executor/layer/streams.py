"""Runs a pass on several streams, and keeps what one stream still reads from being overwritten by another.

The allocator gives freed memory to the next tensor of the stream on which it was allocated, its *home*, at once: what
runs there later runs behind what used the memory before. That holds for uses on the home stream alone. Whoever uses a
tensor on another stream therefore holds it until its home stream has waited for something behind that use. Such waits
come anyway, with the next exchange between the two streams, so that holding costs no event and memory is the same in
every run, unlike `record_stream`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from meshwright.costmodel.program.operators import Operator, Resource
from meshwright.executor.layer.stream_plan import BEGIN, StreamPass, StreamStep
from meshwright.executor.layer.values import HERE, Values

Around = Callable[[Operator, Callable[[], None]], None]
"""Called with each operator and what runs it, with the operator's stream current, behind its waits: to time it."""

Waiting = Callable[[Callable[[], None]], None]
"""Called with what makes the compute stream wait: to time it."""

COMPUTE = Resource.COMPUTE
_AT_HOME = {stream: frozenset((stream,)) for stream in Resource} | {COMPUTE: HERE}
_Foreign = tuple[object, frozenset[Resource]]
"""What an operator has used, and the homes of its memory."""


class StreamDevice(Protocol):
    """What running on streams needs of a device. The compute stream is the one that is current outside of all."""

    def on(self, stream: Resource) -> AbstractContextManager[object]:
        """What runs inside is issued to the stream; what is allocated inside has its home there."""

    def record(self, stream: Resource) -> object:
        """An event behind all that the stream has been given."""

    def wait(self, stream: Resource, event: object) -> None:
        """What the stream is given from now on runs behind the event."""

    def share(self, tensor: Tensor) -> None:
        """The tensor may be used on the compute stream and freed at any time, whatever its home."""


def at_once(wait: Callable[[], None]) -> None:
    """Wait, timed by nobody."""
    wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """An event, and how far its stream had been given work, and known others to be, when it was recorded."""

    event: object
    clock: dict[Resource, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What operator `number` of a stream has used."""

    thing: object
    stream: Resource
    number: int


class Streams:
    """The streams of a device, for all layers that run on it."""

    def __init__(self, device: StreamDevice, waiting: Waiting = at_once) -> None:
        self._device = device
        self._waiting = waiting
        self._known = {stream: dict.fromkeys(Resource, 0) for stream in Resource}
        self._held: dict[Resource, list[_Held]] = {stream: [] for stream in Resource}

    def run(
        self,
        planned: StreamPass,
        values_of: Callable[[Operator], Values],
        run: Callable[[Operator], None],
        around: Around | None = None,
    ) -> None:
        """Issue a pass; the compute stream ends behind all of it. `run` runs an operator on its values."""
        marks = {BEGIN: self._mark(COMPUTE)} if planned.begins else {}
        for place, step in enumerate(planned.steps):
            for waited in step.waits:
                self._wait(step.stream, marks[waited])
            self._launch(step, values_of(step.operator), partial(run, step.operator), around)
            if step.records:
                marks[place] = self._mark(step.stream)
        for waited in planned.ends:
            self._wait(COMPUTE, marks[waited])

    def hand_over(self, values: Values, name: str) -> None:
        """A tensor is about to leave a layer, for anybody who works on the compute stream."""
        if values.homes.pop((name,), HERE) != HERE:
            self._device.share(values[name])

    def num_held(self) -> int:
        """How many uses are held now."""
        return sum(map(len, self._held.values()))

    def _mark(self, stream: Resource) -> _Mark:
        return _Mark(event=self._device.record(stream), clock=dict(self._known[stream]))

    def _wait(self, stream: Resource, mark: _Mark) -> None:
        wait = partial(self._device.wait, stream, mark.event)
        if stream is COMPUTE:
            self._waiting(wait)
        else:
            wait()
        known = self._known[stream]
        for other, number in mark.clock.items():
            known[other] = max(known[other], number)
        self._held[stream] = [one for one in self._held[stream] if one.number > known[one.stream]]

    def _launch(self, step: StreamStep, values: Values, run: Callable[[], None], around: Around | None) -> None:
        own = _AT_HOME[step.stream]
        with self._device.on(step.stream), values.noted() as use:
            if around is None:
                run()
            else:
                around(step.operator, run)
        self._known[step.stream][step.stream] += 1
        foreign = [(thing, homes) for _, thing, homes in use.read if homes != own]
        if foreign:
            self._hold(foreign, step.stream)
        for key, thing in use.written:
            homes = _homes(thing, own, foreign) if foreign else own
            if homes != HERE:
                values.homes[key] = homes

    def _hold(self, foreign: list[_Foreign], stream: Resource) -> None:
        """Hold what a stream has used of others."""
        number = self._known[stream][stream]
        for thing, homes in foreign:
            for home in homes - _AT_HOME[stream]:
                self._held[home].append(_Held(thing=thing, stream=stream, number=number))


def _homes(thing: object, own: frozenset[Resource], foreign: list[_Foreign]) -> frozenset[Resource]:
    """Where the memory of what an operator has written may have been allocated: elsewhere if it is a view."""
    found = own
    for source, homes in foreign:
        if not isinstance(thing, Tensor) or not isinstance(source, Tensor):
            found |= homes
        elif thing.untyped_storage().data_ptr() == source.untyped_storage().data_ptr():
            return homes
    return found
