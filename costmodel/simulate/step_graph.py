"""From a schedule to the event graph of one training step.

Every slot is one event, its end: the latest of the device's previous slot and the arrival of its inputs, plus its
duration. Around the slots lie, per device, a communication stream (parameter gathers, then gradient reductions), and
at the end a barrier and the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from meshwright.costmodel.simulate.actions import ActionKind, Slot
from meshwright.costmodel.simulate.data_parallel import Communication, DataParallelEvents
from meshwright.costmodel.simulate.event_graph import START, EventGraph, EventGraphBuilder
from meshwright.costmodel.simulate.overlap import OVERLAP_ALL, OverlapPolicy
from meshwright.costmodel.simulate.schedule import Schedule, dependency_order
from meshwright.costmodel.simulate.slot_delays import DelayTable
from meshwright.costmodel.simulate.terms import Term, TermLayout


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepGraph:
    """Slot k of device d ends at event `slot_events[d][k]` and lasts the delay of class `slot_classes[d][k]`."""

    schedule: Schedule
    layout: TermLayout
    graph: EventGraph
    slot_events: tuple[tuple[int, ...], ...]
    slot_classes: tuple[tuple[int, ...], ...]
    communications: tuple[tuple[Communication, ...], ...]
    barrier_event: int
    optimizer_events: tuple[int, ...]


@lru_cache(maxsize=32)
def step_graph(schedule: Schedule, overlap: OverlapPolicy = OVERLAP_ALL) -> StepGraph:
    """The event graph, built once per schedule and policy."""
    layout = TermLayout(num_stages=schedule.num_stages, num_chunks=schedule.num_chunks)
    events = EventGraphBuilder()
    delays = DelayTable(schedule, layout, events, overlap)
    data_parallel = DataParallelEvents(schedule, layout, events, delays, overlap)
    compute = _ComputeEvents(schedule, events, delays, data_parallel)
    compute.add_all()
    done = [
        compute.finish(device, (layout.at(Term.STATE_SLOWDOWN, device), 1)) for device in range(schedule.num_stages)
    ]
    reduced = [data_parallel.reduce(device, event) for device, event in enumerate(done)]
    agree = events.delay(((layout.at(Term.BARRIER), 1),))
    barrier = events.event([(event, agree) for event in (*done, *reduced)])
    optimizers = tuple(
        events.event([(barrier, events.delay(((layout.at(Term.OPTIMIZER, device), 1),)))])
        for device in range(schedule.num_stages)
    )
    events.event([(event, events.delay()) for event in optimizers])
    return StepGraph(
        schedule=schedule,
        layout=layout,
        graph=events.build(),
        slot_events=tuple(map(tuple, compute.slot_events)),
        slot_classes=tuple(map(tuple, compute.slot_classes)),
        communications=tuple(map(tuple, data_parallel.communications)),
        barrier_event=barrier,
        optimizer_events=optimizers,
    )


class _ComputeEvents:
    """Adds the slots of all devices, in an order in which each finds what it waits for."""

    def __init__(
        self, schedule: Schedule, events: EventGraphBuilder, delays: DelayTable, data_parallel: DataParallelEvents
    ) -> None:
        self.schedule, self.events, self.delays, self.data_parallel = schedule, events, delays, data_parallel
        self.tip = [data_parallel.gather(device) for device in range(schedule.num_stages)]
        self.slot_events: list[list[int]] = [[] for _ in self.tip]
        self.slot_classes: list[list[int]] = [[] for _ in self.tip]
        size = schedule.num_virtual_stages * schedule.num_micro_batches
        self._forward, self._backward = [START] * size, [START] * size

    def add_all(self) -> None:
        """Every slot of every device."""
        previous: list[Slot] = [()] * self.schedule.num_stages
        for device in dependency_order(self.schedule):
            slot = self.schedule.order[device][len(self.slot_events[device])]
            self._add(device, previous[device], slot)
            previous[device] = slot

    def finish(self, device: int, lost: tuple[int, int]) -> int:
        """The event after the last slot, what it sends and what the device lost beside collectives of its state."""
        sends = self.delays.sends(device, self.schedule.order[device][-1]) or ((),)
        return self.events.event([(self.tip[device], self.events.delay((*hop, lost))) for hop in sends])

    def _add(self, device: int, previous: Slot, slot: Slot) -> None:
        micro_batches = self.schedule.num_micro_batches
        delays = self.delays.delays(device, previous, slot)
        edges = [(self.tip[device], delay) for delay in delays.after_previous]
        for is_forward, stage, number, delay in delays.arrivals:
            source = self._forward if is_forward else self._backward
            edges.append((source[stage * micro_batches + slot[number].micro_batch], delay))
        edges += self.data_parallel.parameter_edges(device, slot)
        event = self.tip[device] = self.events.event(edges)
        self.slot_events[device].append(event)
        self.slot_classes[device].append(delays.duration)
        self.data_parallel.note_gradients(device, slot, event)
        stages = self.schedule.placement[device]
        for action in slot:
            place = stages[action.chunk] * micro_batches + action.micro_batch
            if action.kind is ActionKind.FORWARD:
                self._forward[place] = event
            elif action.kind is not ActionKind.BACKWARD_WEIGHT:
                self._backward[place] = event
