"""The events of one pipeline stage, in the Trace Event Format.

Source: "Trace Event Format" (Google, the Chromium project): events X (slice), C (counter), M (metadata), times in
microseconds; `bind_id` with `flow_out` and `flow_in` draws arrows between slices. Times are rounded to nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from meshwright.costmodel.simulate import Span, SpanKind
from meshwright.costmodel.simulate.actions import Action, ActionKind, Slot
from meshwright.planner.describe.section import ranges
from meshwright.planner.simulated_step import ACTION_KINDS, SimulatedStep, TimedSlot
from meshwright.planner.trace.action_runs import slot_runs
from meshwright.planner.trace.action_slices import LANE_WORDS, Lane, SlotSlice, slot_slices
from meshwright.planner.trace.memory_counters import memory_levels
from meshwright.planner.trace.pieces import Piece

Event: TypeAlias = dict[str, Any]

LANES_PER_STAGE = 10
ACTION_WORDS = {
    ActionKind.FORWARD: "forward",
    ActionKind.BACKWARD: "backward",
    ActionKind.BACKWARD_INPUT: "dgrad",
    ActionKind.BACKWARD_WEIGHT: "wgrad",
}
AFTER_WORDS = {
    SpanKind.PARAM_GATHER: "parameter gather",
    SpanKind.GRAD_REDUCE: "gradient reduction",
    SpanKind.OPTIMIZER: "optimizer",
}
MEMORY_COUNTER = "memory [bytes]"
ACTIVATIONS_COUNTER = "activations held [bytes]"


def microseconds(time_s: float) -> float:
    """Seconds as a trace counts them, to the nanosecond."""
    return round(time_s * 1e6, 3)


class StageEvents:
    """Makes the events of one stage.

    `pieces`: those of all virtual stages. `detailed`: the micro-batches whose operators are shown.
    """

    def __init__(
        self, step: SimulatedStep, device: int, pieces: tuple[tuple[Piece, ...], ...], detailed: frozenset[int]
    ) -> None:
        self._step, self._device, self._detailed = step, device, detailed
        self._pid = device + 1
        self._chunks = tuple(pieces[stage] for stage in step.schedule.placement[device])
        self._layouts: dict[tuple[object, ...], tuple[SlotSlice, ...]] = {}
        self._lanes: dict[Lane, None] = {}

    def events(self) -> Iterator[Event]:
        """Slices by thread, counters, then the names of what was used."""
        yield from self._slots()
        yield from self._after_slots()
        yield from self._counters()
        yield from self._names()

    def _slice(self, lane: Lane, name: str, category: str, start_us: float, end_us: float) -> Event:
        self._lanes[lane] = None
        return {
            "ph": "X",
            "name": name,
            "cat": category,
            "pid": self._pid,
            "tid": self._pid * LANES_PER_STAGE + lane,
            "ts": start_us,
            "dur": round(end_us - start_us, 3),
        }

    def _slots(self) -> Iterator[Event]:
        end_us = 0.0
        for timed in self._step.slots(self._device):
            start_us = max(end_us, microseconds(timed.start_s))
            end_us = microseconds(timed.end_s)
            for action in timed.slot:
                beside = len(timed.slot) > 1 and action.kind is ActionKind.FORWARD
                lane = Lane.FORWARD_BESIDE if beside else Lane.ACTIONS
                yield self._action(action, lane, start_us, end_us)
            if any(action.micro_batch in self._detailed for action in timed.slot):
                yield from self._operators(timed, start_us, end_us)

    def _action(self, action: Action, lane: Lane, start_us: float, end_us: float) -> Event:
        words = ACTION_WORDS[action.kind]
        event = self._slice(lane, f"{words} {action.micro_batch}", words, start_us, end_us)
        stage = self._step.schedule.placement[self._device][action.chunk]
        event["args"] = {"micro-batch": action.micro_batch, "virtual stage": stage, "chunk": action.chunk}
        if action.kind is not ActionKind.BACKWARD_WEIGHT:
            event["bind_id"] = f"{action.micro_batch + 1:#x}"
            event |= self._flow(action.kind, stage)
        return event

    def _flow(self, kind: ActionKind, stage: int) -> Event:
        """A micro-batch's arrows start at its first forward and end at its last backward."""
        forward, first = kind is ActionKind.FORWARD, stage == 0
        arrives, leaves = not (forward and first), forward or not first
        return ({"flow_in": True} if arrives else {}) | ({"flow_out": True} if leaves else {})

    def _operators(self, timed: TimedSlot, start_us: float, end_us: float) -> Iterator[Event]:
        for inner in self._layout(timed.slot, timed.end_s - timed.start_s):
            from_us = min(end_us, max(start_us, round(start_us + inner.start_s * 1e6, 3)))
            to_us = min(end_us, max(from_us, round(start_us + inner.end_s * 1e6, 3)))
            if to_us > from_us:
                event = self._slice(inner.lane, inner.name, inner.category, from_us, to_us)
                if inner.arguments:
                    event["args"] = inner.arguments
                yield event

    def _layout(self, slot: Slot, slot_s: float) -> tuple[SlotSlice, ...]:
        """The inside of a slot, which is the same for all micro-batches."""
        key = tuple((action.kind, action.chunk) for action in slot)
        if key not in self._layouts:
            self._layouts[key] = slot_slices(slot_runs(slot, self._chunks), slot_s)
        return self._layouts[key]

    def _after_slots(self) -> Iterator[Event]:
        for span in self._step.spans[self._device]:
            if span.kind not in ACTION_KINDS and span.end_s > span.start_s:
                yield self._after(span)

    def _after(self, span: Span) -> Event:
        words = AFTER_WORDS[span.kind]
        lane = Lane.DATA_PARALLEL if span.is_communication else Lane.ACTIONS
        event = self._slice(lane, words, words, microseconds(span.start_s), microseconds(span.end_s))
        if span.is_communication:
            event["args"] = {"virtual stage": self._step.schedule.placement[self._device][span.chunk]}
        return event

    def _counters(self) -> Iterator[Event]:
        """Total and activations; of several levels at one time the last counts."""
        levels = {microseconds(level.start_s): level.memory for level in memory_levels(self._step, self._device)}
        for time_us, memory in levels.items():
            for name, num_bytes in ((MEMORY_COUNTER, memory.total), (ACTIVATIONS_COUNTER, memory.activations)):
                yield {"ph": "C", "name": name, "pid": self._pid, "ts": time_us, "args": {"bytes": num_bytes}}

    def _names(self) -> Iterator[Event]:
        mesh = self._step.configuration.mesh
        gpus = f"{mesh.stage_gpus:,} GPU{'s' if mesh.stage_gpus > 1 else ''}"
        yield self._metadata("process_name", name=f"stage {self._device}: {gpus}")
        yield self._metadata("process_labels", labels=f"layers {ranges(self._step.layers_of(self._device))}")
        yield self._metadata("process_sort_index", sort_index=self._device)
        for lane in sorted(self._lanes):
            thread = {"tid": self._pid * LANES_PER_STAGE + lane}
            yield self._metadata("thread_name", name=LANE_WORDS[lane]) | thread
            yield self._metadata("thread_sort_index", sort_index=int(lane)) | thread

    def _metadata(self, kind: str, **arguments: str | int) -> Event:
        return {"ph": "M", "name": kind, "pid": self._pid, "args": arguments}
