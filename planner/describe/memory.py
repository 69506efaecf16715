"""Bytes of every pipeline stage against the limit."""

from __future__ import annotations

from itertools import groupby

from meshwright.costmodel.step import StageMemory
from meshwright.planner.describe.section import Section, gib, percent, ranges
from meshwright.planner.plan import Plan

PARTS = ("parameters", "gradients", "optimizer", "activations", "transient")


def memory_section(plan: Plan) -> Section:
    """One row for each stage; neighbours that print alike share a row."""
    limit_bytes = plan.prediction.memory_limit_bytes
    layers = device_layers(plan)
    rows = [(layers[stage], *_cells(memory, limit_bytes)) for stage, memory in enumerate(plan.prediction.memory)]
    collapsed = []
    for cells, run in groupby(enumerate(rows), key=lambda entry: entry[1]):
        collapsed.append((ranges(stage for stage, _ in run), *cells))
    return Section(
        title=f"Memory of each stage's GPUs in GiB; limit {gib(limit_bytes)}",
        columns=("stage", "layers", *PARTS, "total", "of limit"),
        rows=tuple(collapsed),
    )


def _cells(memory: StageMemory, limit_bytes: float) -> tuple[str, ...]:
    parts = (gib(getattr(memory, part)) for part in PARTS)
    return (*parts, gib(memory.total), percent(memory.total / limit_bytes))


def device_layers(plan: Plan) -> tuple[str, ...]:
    """What each device holds: layers, embedding, head.

    Both ends may lie on one device: the first stage of a V-shaped pipeline has the head as well.
    """
    counts = [0] * plan.mesh.pp
    for stage in plan.pipeline.stages:
        counts[stage.device] += stage.num_layers
    words = [str(count) for count in counts]
    words[plan.pipeline.stages[0].device] += " + embedding"
    words[plan.pipeline.stages[-1].device] += " + head"
    return tuple(words)
