"""What happened when in a simulated step: spans for pictures and traces, busy and idle times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from meshwright.costmodel.simulate.durations import Durations
from meshwright.costmodel.simulate.step_graph import StepGraph
from meshwright.costmodel.simulate.terms import Term
from meshwright.costmodel.value import Value

NO_CHUNK = -1
"""Chunk and micro-batch of a span that belongs to none."""


class SpanKind(StrEnum):
    """What a span shows; the two actions of an overlapped slot are two spans of the same times."""

    FORWARD = "F"
    BACKWARD = "B"
    BACKWARD_INPUT = "I"
    BACKWARD_WEIGHT = "W"
    PARAM_GATHER = "param_gather"
    GRAD_REDUCE = "grad_reduce"
    OPTIMIZER = "optimizer"


class Span(Value, frozen=True, kw_only=True):
    """One thing a device does from `start_s` to `end_s`, on its compute or on its communication stream."""

    device: int
    kind: SpanKind
    chunk: int
    micro_batch: int
    start_s: float
    end_s: float

    @property
    def is_communication(self) -> bool:
        """Whether it lies on the communication stream."""
        return self.kind in (SpanKind.PARAM_GATHER, SpanKind.GRAD_REDUCE)

    def __str__(self) -> str:
        return f"{self.start_s:g}-{self.end_s:g} {self.chunk}{self.kind}{self.micro_batch}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepTimeline:
    """The times of all events of a step. Spans are made when asked for."""

    step: StepGraph
    durations: Durations
    times_s: tuple[float, ...]

    @property
    def step_time_s(self) -> float:
        """From 0 to the end of the last optimizer."""
        return self.times_s[-1]

    @property
    def compute_end_s(self) -> tuple[float, ...]:
        """End of each device's last slot."""
        return tuple(self.times_s[events[-1]] for events in self.step.slot_events)

    @property
    def pipeline_time_s(self) -> float:
        """End of the last slot of all devices."""
        return max(self.compute_end_s)

    @property
    def slot_busy_s(self) -> tuple[float, ...]:
        """Seconds each device spends in slots."""
        return tuple(sum(self._slot_durations_s(device)) for device in range(self.step.schedule.num_stages))

    @property
    def bubble_s(self) -> tuple[float, ...]:
        """Seconds each device is not in a slot before the last slot of all devices ends."""
        return tuple(self.pipeline_time_s - busy_s for busy_s in self.slot_busy_s)

    def spans(self) -> tuple[Span, ...]:
        """Everything, device by device: slots, then communication, then the optimizer."""
        devices = range(self.step.schedule.num_stages)
        return tuple(span for device in devices for span in (*self._slots(device), *self._after_slots(device)))

    def busy_s(self, device: int) -> dict[SpanKind, float]:
        """Seconds of each kind on a device; an overlapped slot counts half as forward, half as backward."""
        busy = dict.fromkeys(SpanKind, 0.0)
        durations_s = self._slot_durations_s(device)
        for slot, duration_s in zip(self.step.schedule.order[device], durations_s, strict=True):
            for action in slot:
                busy[SpanKind(action.kind)] += duration_s / len(slot)
        for span in self._after_slots(device):
            busy[span.kind] += span.end_s - span.start_s
        return busy

    def _slot_durations_s(self, device: int) -> list[float]:
        delays = self.step.graph.delays(self.durations.vector)
        result: list[float] = delays[list(self.step.slot_classes[device])].tolist()
        return result

    def slot_times_s(self, device: int) -> tuple[tuple[float, float], ...]:
        """Begin and end of a device's slots, in their order."""
        ends_s = (self.times_s[event] for event in self.step.slot_events[device])
        durations_s = self._slot_durations_s(device)
        return tuple((end_s - duration_s, end_s) for end_s, duration_s in zip(ends_s, durations_s, strict=True))

    def _slots(self, device: int) -> Iterator[Span]:
        slots = zip(self.step.schedule.order[device], self.slot_times_s(device), strict=True)
        for slot, (start_s, end_s) in slots:
            for action in slot:
                yield Span(
                    device=device,
                    kind=SpanKind(action.kind),
                    chunk=action.chunk,
                    micro_batch=action.micro_batch,
                    start_s=start_s,
                    end_s=end_s,
                )

    def _after_slots(self, device: int) -> Iterator[Span]:
        for work in self.step.communications[device]:
            kind = SpanKind.PARAM_GATHER if work.term is Term.PARAM_GATHER else SpanKind.GRAD_REDUCE
            yield self._span(device, kind, work.chunk, work.start_event, work.end_event)
        end = self.step.optimizer_events[device]
        yield self._span(device, SpanKind.OPTIMIZER, NO_CHUNK, self.step.barrier_event, end)

    def _span(self, device: int, kind: SpanKind, chunk: int, start_event: int, end_event: int) -> Span:
        return Span(
            device=device,
            kind=kind,
            chunk=chunk,
            micro_batch=NO_CHUNK,
            start_s=self.times_s[start_event],
            end_s=self.times_s[end_event],
        )
