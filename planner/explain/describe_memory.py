"""Memory of a pipeline stage in words: every byte of its peak."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.units import format_bytes, format_time
from meshwright.planner.describe.section import Section, gib, percent, ranges
from meshwright.planner.explain.explanation import Explanation
from meshwright.planner.explain.stages import MemoryItem, StageTerm


def fullest(explanation: Explanation) -> StageTerm:
    """The stage with the highest peak."""
    return max(explanation.stages, key=lambda stage: stage.peak_bytes)


def memory_summary_section(explanation: Explanation, stage: StageTerm) -> Section:
    """The terms of a stage's peak, each with the largest of its items."""
    rows = []
    for term in stage.memory:
        largest = max(term.items, key=lambda item: item.num_bytes, default=None)
        mostly = f"{largest.what}: {largest.count} x {format_bytes(largest.each_bytes)}" if largest else "-"
        rows.append((term.kind, gib(term.num_bytes), mostly))
    return Section(
        title=_title(explanation, stage),
        columns=("term", "GiB", "largest item"),
        rows=(*rows, ("peak", gib(stage.peak_bytes), "")),
        notes=(f"every byte: --stage {stage.device}",),
    )


def _title(explanation: Explanation, stage: StageTerm) -> str:
    limit_bytes = explanation.prediction.memory_limit_bytes
    used = percent(stage.peak_bytes / limit_bytes)
    return f"Memory of stage {stage.device} in GiB: {gib(stage.peak_bytes)} of {gib(limit_bytes)} ({used})"


def memory_section(explanation: Explanation, stage: StageTerm) -> Section:
    """Every term of a stage's peak with what it is made of; items that are nothing are left out."""
    rows: list[tuple[str, ...]] = []
    for term in stage.memory:
        rows.append((term.kind, "", "", gib(term.num_bytes)))
        rows.extend(_item_row(item) for item in term.items if item.num_bytes)
    rows.append(("peak", "", "", gib(stage.peak_bytes)))
    return Section(
        title=_title(explanation, stage),
        columns=("term", "times", "bytes each", "GiB"),
        rows=tuple(rows),
        notes=tuple(_formula_notes(explanation, stage)),
    )


def _item_row(item: MemoryItem) -> tuple[str, ...]:
    return f"  {item.what}", f"{item.count}", f"{item.each_bytes:,.0f}", gib(item.num_bytes)


def _formula_notes(explanation: Explanation, stage: StageTerm) -> Iterator[str]:
    for term in stage.memory:
        for name in dict.fromkeys(name for item in term.items for name in item.formulas):
            yield f"{term.kind}: {explanation.formulas[name].equation}"
    yield (
        "activations: micro-batches in flight at the stage's worst moment (costmodel.simulate.in_flight) x tensors"
        " kept, and what weight gradients read (costmodel.program.recompute.late_bytes);"
        " transient: costmodel.program.recompute.transient_bytes"
    )


def chunks_section(stage: StageTerm) -> Section:
    """The virtual stages of a device: layers, seconds of a micro-batch, of the step's collectives, activations."""
    names = tuple(stage.chunks[0].passes_s)
    rows = tuple(
        (
            str(chunk.virtual_stage),
            ranges(range(chunk.first_layer, chunk.first_layer + chunk.num_layers)) or "-",
            *(format_time(chunk.passes_s[name]) for name in names),
            *(format_time(time_s) for time_s in (chunk.param_gather_s, chunk.grad_reduce_s, chunk.optimizer_s)),
            gib(chunk.kept_bytes),
            str(chunk.held),
        )
        for chunk in stage.chunks
    )
    return Section(
        title=f"What stage {stage.device} runs",
        columns=(
            *("virtual stage", "layers", *names, "parameter gather", "gradient reduction", "optimizer"),
            *("kept GiB", "in flight"),
        ),
        rows=rows,
    )
