"""The events of one rank's recorded step, in the Trace Event Format, named and placed as the simulator's are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from meshwright.executor.observe.spans import OperatorAt, PartAt, PassAt, Span, StepSpans
from meshwright.executor.ranks.place import Place
from meshwright.executor.stopwatch import StepPart
from meshwright.planner.trace.action_slices import LANE_WORDS, STREAM_LANES, Lane
from meshwright.planner.trace.stage_events import LANES_PER_STAGE, Event, microseconds

PART_LANES = {StepPart.GRADIENTS: Lane.DATA_PARALLEL}
PART_WORDS = {StepPart.GRADIENTS: "gradient reduction", StepPart.OPTIMIZER: "optimizer"}
ACTIONS = (StepPart.FORWARD, StepPart.BACKWARD)


class RankEvents:
    """Makes the events of a rank.

    `start_s`: when it began the step, after the first that did. `max_slices`: of operators; those of as many
    micro-batches in the middle as that allows are shown, at least those of one.
    """

    def __init__(self, step: StepSpans, place: Place, host: str, start_s: float, max_slices: int) -> None:
        self._step, self._place, self._host, self._start_s = step, place, host, start_s
        self._pid = place.mesh.pp + 1 + place.rank
        self._detailed = _detailed(step, max_slices)
        self._lanes: dict[Lane, None] = {}

    def events(self) -> Iterator[Event]:
        """Slices in the order in which they began, then the names of what was used."""
        for is_inside, spans in groupby(self._step.spans, key=lambda span: isinstance(span.what, OperatorAt)):
            if not is_inside:
                yield from map(self._part, spans)
                continue
            passes: dict[PassAt, list[Span]] = {}  # operators of two that run beside each other take turns
            for span in spans:
                assert isinstance(span.what, OperatorAt)  # grouped by it
                passes.setdefault(span.what.within, []).append(span)
            for within, inside in passes.items():
                yield from self._pass(within, inside)
        yield from self._names()

    def _part(self, span: Span) -> Event:
        assert isinstance(span.what, PartAt)  # grouped by it
        part = span.what.part
        words = PART_WORDS.get(part, span.what.name)
        category = words.partition(" ")[0] if part in ACTIONS else part.value if part is StepPart.WAIT else words
        lane = PART_LANES.get(part, _actions(span.what.beside))
        return self._slice(lane, words, category, span.start_s, span.end_s)

    def _pass(self, within: PassAt, spans: list[Span]) -> Iterator[Event]:
        """A layer's pass, and its operators on their streams."""
        if within.micro_batch not in self._detailed:
            return
        start_s, end_s = min(span.start_s for span in spans), max(span.end_s for span in spans)
        lane = _actions(within.beside)
        yield self._slice(lane, f"{within.title} {within.kind.value}", "layer", start_s, end_s)
        for span in spans:
            assert isinstance(span.what, OperatorAt)  # it is within a pass
            operator = span.what.operator
            category = "recomputed" if operator.recomputes else operator.phase.value
            event = self._slice(STREAM_LANES[span.what.stream], operator.name, category, span.start_s, span.end_s)
            yield event | {"args": {"module": operator.module}}

    def _slice(self, lane: Lane, name: str, category: str, start_s: float, end_s: float) -> Event:
        self._lanes[lane] = None
        start_us = microseconds(self._start_s + start_s)
        return {
            "ph": "X",
            "name": name,
            "cat": category,
            "pid": self._pid,
            "tid": self._pid * LANES_PER_STAGE + lane,
            "ts": start_us,
            "dur": round(microseconds(self._start_s + end_s) - start_us, 3),
        }

    def _names(self) -> Iterator[Event]:
        place = self._place
        yield self._metadata("process_name", name=f"rank {place.rank}: stage {place.stage}, measured")
        yield self._metadata("process_labels", labels=self._host)
        yield self._metadata("process_sort_index", sort_index=stage_sort_index(place, place.stage) + 1 + place.in_stage)
        for lane in sorted(self._lanes):
            thread = {"tid": self._pid * LANES_PER_STAGE + lane}
            yield self._metadata("thread_name", name=LANE_WORDS[lane]) | thread
            yield self._metadata("thread_sort_index", sort_index=int(lane)) | thread

    def _metadata(self, kind: str, **arguments: str | int) -> Event:
        return {"ph": "M", "name": kind, "pid": self._pid, "args": arguments}


def stage_sort_index(place: Place, stage: int) -> int:
    """Where a stage's prediction stands, its ranks behind it."""
    return stage * (place.mesh.stage_gpus + 1)


def _actions(beside: bool) -> Lane:
    return Lane.FORWARD_BESIDE if beside else Lane.ACTIONS


def _within(span: Span) -> PassAt | None:
    return span.what.within if isinstance(span.what, OperatorAt) else None


def _detailed(step: StepSpans, max_slices: int) -> frozenset[int]:
    """The micro-batches in the middle whose operators are not too many."""
    seen = [within.micro_batch for within in map(_within, step.spans) if within is not None]
    numbers = sorted(set(seen))
    if not numbers:
        return frozenset()
    shown = min(len(numbers), max(1, max_slices * len(numbers) // len(seen)))
    first = (len(numbers) - shown) // 2
    return frozenset(numbers[first : first + shown])
