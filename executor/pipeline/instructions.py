"""From a schedule to what one device does: its actions, and the messages that bring and take what they need.

Messages are put into the orders of both devices at the same place of one order of all events, so that they match and no
two devices wait for each other, however sends and receives block. It is the order of the planned times: between two
ranks messages travel one after another, so that none should be in front of one that is there before it, and NCCL's
kernels hold SMs from when they are issued, so that neither side should wait long for the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise

from meshwright.costmodel.simulate import Schedule
from meshwright.costmodel.simulate.actions import Action, ActionKind, Slot
from meshwright.costmodel.value import Value


class Passage(Value, frozen=True, kw_only=True):
    """What goes from one virtual stage to its neighbour: a micro-batch's hidden state, or the gradient of it."""

    source: int
    target: int
    micro_batch: int


class Compute(Value, frozen=True, kw_only=True):
    """A slot of the schedule: an action, or a forward beside a backward."""

    slot: Slot


class Send(Value, frozen=True, kw_only=True):
    """A message to another device."""

    passage: Passage
    device: int


class Receive(Value, frozen=True, kw_only=True):
    """A message from another device: expected from here on, waited for by the action that needs it."""

    passage: Passage
    device: int


Instruction = Compute | Send | Receive


SlotTimes = Sequence[Sequence[tuple[float, float]]]
"""For each device, when each of its slots is planned to begin and to end."""


def device_instructions(schedule: Schedule, times_s: SlotTimes) -> tuple[tuple[Instruction, ...], ...]:
    """What each device does, in order. What a device hands to itself is no message.

    Any times give orders that work; those of the plan give short waits.
    """
    return _Merge(schedule, times_s).run()


class _Merge:
    """All slots in the order in which they begin, each behind what it needs, and the messages between them."""

    def __init__(self, schedule: Schedule, times_s: SlotTimes) -> None:
        self._schedule, self._times_s = schedule, times_s
        self._device_of = schedule.device_of
        self._lists: list[list[Instruction]] = [[] for _ in range(schedule.num_stages)]
        self._positions = [0] * schedule.num_stages
        self._yielded: set[Passage] = set()
        self._ready: list[tuple[float, int]] = []
        """Begin of the next slot of each device that has what it needs for it, and the device."""
        self._unsent: list[tuple[float, int, Passage]] = []
        """When what was yielded can be sent, and a number that tells equals apart."""

    def run(self) -> tuple[tuple[Instruction, ...], ...]:
        """The instructions of each device."""
        for device in range(self._schedule.num_stages):
            self._look_at(device)
        while self._ready:
            _, device = heappop(self._ready)
            for other in self._add_slot(device):
                self._look_at(other)
        self._add_messages(math.inf)
        return tuple(map(tuple, self._lists))

    def _look_at(self, device: int) -> None:
        """Note whether a device that has got something, or has begun a slot, is ready for its next one."""
        position, order = self._positions[device], self._schedule.order[device]
        if position < len(order) and self._yielded.issuperset(self._passages(device, order[position], incoming)):
            entry = self._times_s[device][position][0], device
            if entry not in self._ready:
                heappush(self._ready, entry)

    def _add_slot(self, device: int) -> set[int]:
        """The next slot, behind what is to be sent before it begins and all that it needs; who has got something."""
        position = self._positions[device]
        slot, (begin_s, end_s) = self._schedule.order[device][position], self._times_s[device][position]
        needed = set(self._passages(device, slot, incoming))
        before_s = self._times_s[device][position - 1][1] if position else begin_s
        self._add_messages(max(begin_s, before_s, *(sent_s for sent_s, _, one in self._unsent if one in needed)))
        self._lists[device].append(Compute(slot=slot))
        self._positions[device] += 1
        yielded = tuple(self._passages(device, slot, outgoing))
        for passage in yielded:
            self._yielded.add(passage)
            if self._device_of[passage.target] != device:
                heappush(self._unsent, (end_s, len(self._yielded), passage))
        return {device, *(self._device_of[passage.target] for passage in yielded)}

    def _add_messages(self, until_s: float) -> None:
        """Those that can be sent until then, to the lists of both devices."""
        while self._unsent and self._unsent[0][0] <= until_s:
            _, _, passage = heappop(self._unsent)
            source, target = self._device_of[passage.source], self._device_of[passage.target]
            self._lists[source].append(Send(passage=passage, device=target))
            self._lists[target].append(Receive(passage=passage, device=source))

    def _passages(
        self, device: int, slot: Slot, passage_of: Callable[[Action, int, int], Passage | None]
    ) -> Iterator[Passage]:
        """What the actions of a slot need or yield."""
        for action in slot:
            stage = self._schedule.placement[device][action.chunk]
            passage = passage_of(action, stage, self._schedule.num_virtual_stages)
            if passage is not None:
                yield passage


def backwards_behind(actions: Sequence[Action]) -> dict[Action, Action]:
    """For each backward of a device the one that comes next, if no forward comes between them."""
    passes = [action for action in actions if action.kind is not ActionKind.BACKWARD_WEIGHT]
    return {one: other for one, other in pairwise(passes) if one.kind.sends_gradient and other.kind.sends_gradient}


def outgoing(action: Action, stage: int, num_stages: int) -> Passage | None:
    """What an action of a virtual stage yields for its neighbour; None at the model's ends and of weight gradients."""
    if action.kind is ActionKind.FORWARD:
        target = stage + 1
    elif action.kind.sends_gradient:
        target = stage - 1
    else:
        return None
    if not 0 <= target < num_stages:
        return None
    return Passage(source=stage, target=target, micro_batch=action.micro_batch)


def incoming(action: Action, stage: int, num_stages: int) -> Passage | None:
    """What an action of a virtual stage needs from its neighbour; None at the model's ends and for weight gradients."""
    if action.kind is ActionKind.FORWARD:
        source = stage - 1
    elif action.kind.sends_gradient:
        source = stage + 1
    else:
        return None
    if not 0 <= source < num_stages:
        return None
    return Passage(source=source, target=stage, micro_batch=action.micro_batch)
