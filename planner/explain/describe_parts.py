"""One part of the model in full: every operator of its passes, every tensor it keeps, its model state."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.units import format_bandwidth, format_bytes, format_flops, format_time
from meshwright.planner.describe.section import Section, percent, ranges
from meshwright.planner.explain.describe_operators import operator_words
from meshwright.planner.explain.marks import Marks
from meshwright.planner.explain.operators import OperatorTerm
from meshwright.planner.explain.parts import NEGLIGIBLE_S, PartTerm, PassTerm
from meshwright.planner.explain.state import StateTerm


def part_sections(part: PartTerm) -> Iterator[Section]:
    """A part in full: its passes, what it keeps, its state."""
    yield Section(title=f"{part.label}{_which(part)}: {part.strategy}", lines=tuple(_part_lines(part)))
    for one in part.passes:
        yield pass_section(part, one)
    yield Section(
        title=f"{part.label}: tensors kept for the backward, a micro-batch",
        columns=("tensor", "bytes", "MiB"),
        rows=(
            *((kept.name, f"{kept.num_bytes:,.0f}", f"{kept.num_bytes / 2**20:,.2f}") for kept in part.kept),
            ("all", f"{part.kept_bytes:,.0f}", f"{part.kept_bytes / 2**20:,.2f}"),
        ),
    )
    yield _state_section(part)
    yield _state_collectives_section(part)


def _which(part: PartTerm) -> str:
    return f", layers {ranges(part.layers)}" if part.layers else ""


def _part_lines(part: PartTerm) -> Iterator[str]:
    yield f"{part.num_parameters:,.0f} parameters a GPU; {format_bytes(part.transient_bytes)} alive at most in passing"
    for one in part.passes:
        spent = [(name, f"{name} {format_time(time_s)}") for name, time_s in one.seconds.items() if time_s]
        terms = [text for name, text in spent if not name.startswith("hidden")]
        hidden = [text for name, text in spent if name.startswith("hidden")]
        beside = f" (beside it: {', '.join(hidden)})" if hidden else ""
        yield f"{one.name} {format_time(one.length_s)} = {' + '.join(terms)}{beside}"
        if one.beyond_operators:
            extra = ", ".join(f"{name} {format_time(time_s)}" for name, time_s in one.beyond_operators.items())
            yield f"{one.name}, not from its operators (ZeRO-2/3, offload, other micro-batches): {extra}"
    if part.overlap_saving_s:
        yield f"a forward beside a backward saves {format_time(part.overlap_saving_s)}"


def pass_section(part: PartTerm, one: PassTerm) -> Section:
    """Every operator of a pass in the order of its launch."""
    formulas, figures = Marks("F"), Marks("C")
    rows = tuple((*_operator_row(term), figures.of(term.cites), formulas.of(term.formulas)) for term in one.operators)
    return Section(
        title=f"{part.label}: {one.name}, {format_time(one.length_s)} a micro-batch",
        columns=(
            *("operator", "work", "FLOP", "bytes", "alone", "exposed", "hidden", "rate", "of peak"),
            *("rests on", "of", "by"),
        ),
        rows=rows,
        notes=(*formulas.notes(), *figures.notes()),
    )


def _operator_row(term: OperatorTerm) -> tuple[str, ...]:
    communicates = term.axis is not None
    work = f"{term.work}, {term.group}, {term.algorithm}" if communicates else term.work
    return (
        operator_words(term),
        work,
        format_flops(term.flops) if term.flops else "-",
        format_bytes(term.num_bytes),
        format_time(term.time_s),
        format_time(term.exposed_s) if communicates else "-",
        format_time(term.hidden_s) if communicates else "-",
        _rate(term),
        percent(term.of_peak),
        term.basis.value,
    )


def _rate(term: OperatorTerm) -> str:
    if not term.rate_per_s:
        return "-"
    return f"{format_flops(term.rate_per_s)}/s" if term.flops else format_bandwidth(term.rate_per_s)


def _state_section(part: PartTerm) -> Section:
    rows = tuple(_state_row(term) for term in part.state)
    further = (
        ("host time", part.state_host_s),
        ("summing gradients over both ends of the pipeline", part.sum_of_ends_s),
    )
    return Section(
        title=f"{part.label}: model state",
        columns=(
            *("weights", "parameters", "copies", "shards"),
            *("parameter bytes", "gradient bytes", "optimizer bytes", "update"),
        ),
        rows=rows,
        notes=tuple(f"and {format_time(time_s)} of {what}" for what, time_s in further if time_s > NEGLIGIBLE_S),
    )


def _state_row(term: StateTerm) -> tuple[str, ...]:
    return (
        term.weights,
        f"{term.num_parameters:,.0f}",
        str(term.num_copies),
        str(term.num_shards),
        *(f"{held.num_bytes:,.0f}" for held in term.held),
        format_time(term.update_s),
    )


def _state_collectives_section(part: PartTerm) -> Section:
    rows = tuple(
        (
            state.weights,
            one.kind,
            one.collective.value.replace("_", "-"),
            format_bytes(one.num_bytes),
            one.group,
            one.algorithm,
            format_time(one.time_s),
            "micro-batch" if one.per_micro_batch else "step",
        )
        for state in part.state
        for one in state.collectives
    )
    return Section(
        title=f"{part.label}: data-parallel collectives",
        columns=("weights", "of", "collective", "bytes", "group", "algorithm", "alone", "once a"),
        rows=rows,
        lines=() if rows else ("none",),
    )
