"""What a slot waits for and how long it lasts, as classes of delays; the same for all micro-batches of a chunk."""

from __future__ import annotations

from typing import NamedTuple

from meshwright.costmodel.simulate.actions import Action, ActionKind, Slot
from meshwright.costmodel.simulate.event_graph import Combination, EventGraphBuilder
from meshwright.costmodel.simulate.overlap import OverlapPolicy
from meshwright.costmodel.simulate.schedule import Schedule
from meshwright.costmodel.simulate.terms import Term, TermLayout


class Arrival(NamedTuple):
    """An input from another device: the output of `stage` for the micro-batch of the slot's action `number`."""

    is_forward: bool
    stage: int
    number: int
    delay: int


class SlotDelays(NamedTuple):
    """Classes of delays to a slot's end: its own duration, after the device's previous slot, after its arrivals."""

    duration: int
    after_previous: tuple[int, ...]
    arrivals: tuple[Arrival, ...]


class DelayTable:
    """Looks delays up by device, previous slot and slot."""

    def __init__(
        self, schedule: Schedule, layout: TermLayout, events: EventGraphBuilder, overlap: OverlapPolicy
    ) -> None:
        self._placement, self._device_of = schedule.placement, schedule.device_of
        self._layout, self._events, self._overlap = layout, events, overlap
        self._known: dict[tuple[object, ...], SlotDelays] = {}

    def delays(self, device: int, previous: Slot, slot: Slot) -> SlotDelays:
        """The delays of `slot` on `device` after `previous` (empty for the first slot)."""
        before = () if self._overlap.point_to_point else tuple((action.kind, action.chunk) for action in previous)
        key = (device, before, *[(action.kind, action.chunk) for action in slot])
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._build(device, previous, slot)
        return found

    def duration(self, device: int, slot: Slot) -> Combination:
        """The slot's duration: its actions in turn, less what overlapping them saves."""
        if not slot:
            return ()
        actions = tuple((term, 1) for action in slot for term in self._work(device, action))
        if len(slot) == 1:
            return actions
        return (*actions, (self._layout.chunk(Term.OVERLAP_SAVING, device, slot[0].chunk), -1))

    def sends(self, device: int, slot: Slot) -> tuple[Combination, ...]:
        """The transfers that block the device after the slot, which run at once."""
        if self._overlap.point_to_point:
            return ()
        return tuple(hop for action in slot for hop in self._sent(device, action))

    def _build(self, device: int, previous: Slot, slot: Slot) -> SlotDelays:
        events, duration = self._events, self.duration(device, slot)
        inputs = [(number, *found) for number, action in enumerate(slot) for found in self._received(device, action)]
        received = () if self._overlap.point_to_point else tuple(hop for _, _, hop in inputs)
        exchanged = {events.delay(hop, duration): None for hop in (*self.sends(device, previous), *received)}
        return SlotDelays(
            duration=events.delay(duration),
            after_previous=tuple(exchanged) or (events.delay(duration),),
            arrivals=tuple(
                Arrival(slot[number].kind is ActionKind.FORWARD, stage, number, events.delay(hop, duration))
                for number, stage, hop in inputs
            ),
        )

    def _work(self, device: int, action: Action) -> tuple[int, ...]:
        terms = {
            ActionKind.FORWARD: (Term.FORWARD,),
            ActionKind.BACKWARD: (Term.BACKWARD_INPUT, Term.BACKWARD_WEIGHT),
            ActionKind.BACKWARD_INPUT: (Term.BACKWARD_INPUT,),
            ActionKind.BACKWARD_WEIGHT: (Term.BACKWARD_WEIGHT,),
        }[action.kind]
        return tuple(self._layout.chunk(term, device, action.chunk) for term in terms)

    def _received(self, device: int, action: Action) -> tuple[tuple[int, Combination], ...]:
        """(virtual stage, hop) of the action's input, if it comes from another device."""
        stage = self._placement[device][action.chunk]
        if action.kind is ActionKind.FORWARD:
            return self._hop(device, stage - 1, Term.FORWARD_HOP, stage - 1)
        return self._hop(device, stage + 1, Term.BACKWARD_HOP, stage) if action.kind.sends_gradient else ()

    def _sent(self, device: int, action: Action) -> tuple[Combination, ...]:
        stage = self._placement[device][action.chunk]
        if action.kind is ActionKind.FORWARD:
            return tuple(hop for _, hop in self._hop(device, stage + 1, Term.FORWARD_HOP, stage))
        if action.kind.sends_gradient:
            return tuple(hop for _, hop in self._hop(device, stage - 1, Term.BACKWARD_HOP, stage - 1))
        return ()

    def _hop(self, device: int, stage: int, term: Term, index: int) -> tuple[tuple[int, Combination], ...]:
        """A transfer to or from `stage`; none past the ends, and none within one device, whose order settles it."""
        if not 0 <= stage < len(self._device_of) or self._device_of[stage] == device:
            return ()
        return ((stage, ((self._layout.at(term, index), 1),)),)
