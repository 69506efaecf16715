"""Lays the operators of a slot into the time that the simulation gives it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from meshwright.costmodel.order.timeline import OperatorSpan, PassTimeline
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.value import Value
from meshwright.planner.trace.action_runs import Run

SCALE_TOLERANCE = 1e-6


class Lane(IntEnum):
    """The threads of a stage, in the order in which they are shown."""

    ACTIONS = 1
    FORWARD_BESIDE = 2
    COMPUTE = 3
    NVLINK = 4
    NETWORK = 5
    COPY_ENGINE = 6
    DATA_PARALLEL = 7


LANE_WORDS = {
    Lane.ACTIONS: "micro-batches",
    Lane.FORWARD_BESIDE: "micro-batches: forward beside a backward",
    Lane.COMPUTE: "compute",
    Lane.NVLINK: "NVLink",
    Lane.NETWORK: "network",
    Lane.COPY_ENGINE: "copy engine",
    Lane.DATA_PARALLEL: "data-parallel communication",
}
STREAM_LANES = {
    Resource.COMPUTE: Lane.COMPUTE,
    Resource.NVLINK: Lane.NVLINK,
    Resource.NETWORK: Lane.NETWORK,
    Resource.COPY_ENGINE: Lane.COPY_ENGINE,
}


class SlotSlice(Value, frozen=True, kw_only=True):
    """Something inside a slot, with seconds from the slot's start."""

    lane: Lane
    name: str
    category: str
    start_s: float
    end_s: float
    arguments: dict[str, str | int | float]


def slot_slices(runs: tuple[Run, ...], slot_s: float) -> tuple[SlotSlice, ...]:
    """Layers one after another, each with its operators, stretched evenly where the slot is longer than their sum."""
    sum_s = sum(run.time_s for run in runs)
    stretch = slot_s / sum_s if sum_s else 1.0
    slices: list[SlotSlice] = []
    start_s = 0.0
    for run in runs:
        end_s = start_s + run.time_s * stretch
        slices.extend(_run_slices(run, start_s, end_s))
        start_s = end_s
    return tuple(slices)


def _run_slices(run: Run, start_s: float, end_s: float) -> Iterator[SlotSlice]:
    """The layer, its operators at the speed at which they fit, and what it waits for afterwards."""
    longest_s = max(run.time_s, run.timeline.end_s)
    scale = (end_s - start_s) / longest_s if longest_s else 1.0
    scaled = abs(scale - 1.0) > SCALE_TOLERANCE
    yield SlotSlice(
        lane=Lane.ACTIONS,
        name=run.name,
        category="layer",
        start_s=start_s,
        end_s=end_s,
        arguments={"operator times scaled by": scale} if scaled else {},
    )
    for name, span in merged_spans(run.timeline):
        yield SlotSlice(
            lane=STREAM_LANES[span.stream],
            name=name,
            category="recomputed" if span.recomputes else span.phase.value,
            start_s=start_s + span.start_s * scale,
            end_s=start_s + span.end_s * scale,
            arguments=_arguments(span),
        )
    waits_from_s = start_s + run.timeline.end_s * scale
    if run.waits_for:
        yield SlotSlice(
            lane=Lane.ACTIONS,
            name=f"waits: {run.waits_for}",
            category="wait",
            start_s=waits_from_s,
            end_s=end_s,
            arguments={},
        )


def merged_spans(timeline: PassTimeline) -> Iterator[tuple[str, OperatorSpan]]:
    """Spans with their names; a fused kernel is one on each of its streams, under the names of all its members."""
    seen: set[tuple[Resource, frozenset[str]]] = set()
    fused: dict[frozenset[str], list[str]] = {}
    for span in timeline.spans:
        if span.fused_with:
            fused.setdefault(frozenset((span.name, *span.fused_with)), []).append(span.name)
    for span in timeline.spans:
        if not span.fused_with:
            yield span.name, span
            continue
        members = frozenset((span.name, *span.fused_with))
        if (span.stream, members) not in seen:
            seen.add((span.stream, members))
            yield " + ".join(fused[members]), span


def _arguments(span: OperatorSpan) -> dict[str, str | int | float]:
    arguments: dict[str, str | int | float] = {"module": span.module}
    if span.fused_with:
        arguments["fused"] = "one kernel"
    if span.num_sms:
        arguments["SMs"] = span.num_sms
    return arguments
