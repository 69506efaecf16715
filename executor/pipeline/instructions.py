"""From a schedule to what one device does: its actions, and the messages that bring and take what they need.

Messages are put into the orders of both devices at the same place of one order of all events, so that they match and no
two devices wait for each other, however sends and receives block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from meshwright.costmodel.simulate import Schedule
from meshwright.costmodel.simulate.actions import Action, ActionKind, Slot
from meshwright.costmodel.simulate.schedule import dependency_order
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


def device_instructions(schedule: Schedule) -> tuple[tuple[Instruction, ...], ...]:
    """What each device does, in order. What a device hands to itself is no message."""
    lists: list[list[Instruction]] = [[] for _ in range(schedule.num_stages)]
    positions = [0] * schedule.num_stages
    device_of = schedule.device_of
    for device in dependency_order(schedule):
        slot = schedule.order[device][positions[device]]
        positions[device] += 1
        lists[device].append(Compute(slot=slot))
        for passage in _passages(schedule, device, slot):
            target = device_of[passage.target]
            if target != device:
                lists[device].append(Send(passage=passage, device=target))
                lists[target].append(Receive(passage=passage, device=device))
    return tuple(map(tuple, lists))


def _passages(schedule: Schedule, device: int, slot: tuple[Action, ...]) -> Iterator[Passage]:
    for action in slot:
        passage = outgoing(action, schedule.placement[device][action.chunk], schedule.num_virtual_stages)
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
