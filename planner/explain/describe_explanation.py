"""An explanation in words and tables: a summary, or everything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import Section, percent
from meshwright.planner.explain.describe_memory import chunks_section, fullest, memory_section, memory_summary_section
from meshwright.planner.explain.describe_messages import messages_section
from meshwright.planner.explain.describe_operators import communication_section, heaviest, heaviest_section
from meshwright.planner.explain.describe_parts import part_sections
from meshwright.planner.explain.describe_path import path_section, totals_section
from meshwright.planner.explain.explanation import Explanation

MORE = "--full shows every operator, stage, assumption, formula and source; --layer N or --stage N one of them"
SHORT_ASSUMPTIONS = (
    "runtime.overlap",
    "runtime.expert_load_deviation",
    "workload.expert_imbalance",
    "memory limit",
    "interference",
)


def describe_summary(explanation: Explanation) -> tuple[Section, ...]:
    """What fits on a screen or two."""
    return (
        headline_section(explanation),
        path_section(explanation),
        totals_section(explanation),
        heaviest_section(explanation),
        *_unless_empty(communication_section(explanation)),
        memory_summary_section(explanation, fullest(explanation)),
        _short_assumptions_section(explanation),
        formulas_section(explanation, _used_by_heaviest(explanation), with_sources=False),
    )


def describe_full(explanation: Explanation) -> tuple[Section, ...]:
    """Everything."""
    return (
        headline_section(explanation),
        path_section(explanation),
        totals_section(explanation),
        heaviest_section(explanation),
        *_unless_empty(communication_section(explanation)),
        *_unless_empty(messages_section(explanation)),
        *(section for part in explanation.parts for section in part_sections(part)),
        *(section for stage in explanation.stages for section in describe_stage(explanation, stage.device)),
        assumptions_section(explanation),
        formulas_section(explanation, explanation.formulas),
        cites_section(explanation, explanation.cites),
    )


def describe_layer(explanation: Explanation) -> tuple[Section, ...]:
    """One part in full, with the formulas and figures that it rests on. `explanation` is a selected one."""
    sections = [section for part in explanation.parts for section in part_sections(part)]
    operators = [term for part in explanation.parts for one in part.passes for term in one.operators]
    state = [term for part in explanation.parts for term in part.state]
    used = chain(
        (name for term in operators for name in term.formulas),
        (name for term in state for held in term.held for name in held.formulas),
        (name for term in state for one in term.collectives for name in one.formulas),
        (name for term in state for name in term.update_formulas),
    )
    cited = (name for term in operators for name in term.cites)
    return (*sections, formulas_section(explanation, used), cites_section(explanation, cited))


def describe_stage(explanation: Explanation, device: int) -> tuple[Section, ...]:
    """One device of the pipeline in full."""
    stage = next(stage for stage in explanation.stages if stage.device == device)
    return chunks_section(stage), memory_section(explanation, stage)


def headline_section(explanation: Explanation) -> Section:
    """What is explained, and what its figures rest on."""
    prediction = explanation.prediction
    basis = ", ".join(f"{percent(share)} {name}" for name, share in prediction.basis.items() if share)
    return Section(
        title=f"{explanation.model} on {explanation.num_gpus:,} GPUs: a step of {seconds(prediction.step_time_s)}",
        lines=(f"operator times rest on hardware figures that are {basis}", MORE),
        notes=tuple(f"note: {warning}" for warning in explanation.warnings),
    )


def _unless_empty(section: Section) -> tuple[Section, ...]:
    return (section,) if section.rows else ()


def _used_by_heaviest(explanation: Explanation) -> Iterator[str]:
    return (name for operator in heaviest(explanation) for name in operator.term.formulas)


def formulas_section(explanation: Explanation, used: Iterable[str], *, with_sources: bool = True) -> Section:
    """Equation, and source, of the formulas with these names."""
    formulas = [explanation.formulas[name] for name in dict.fromkeys(used)]
    sources = {formula.name: f" Source: {formula.source}" if with_sources else "" for formula in formulas}
    return Section(
        title="Formulas" if with_sources else "Formulas of these operators (all of them, and their sources: --full)",
        lines=tuple(f"{formula.name}: {formula.equation}{sources[formula.name]}" for formula in formulas),
    )


def cites_section(explanation: Explanation, used: Iterable[str]) -> Section:
    """Where the hardware figures come from."""
    figures = [explanation.cites[name] for name in sorted(set(used))]
    return Section(
        title="Hardware figures that operator times rest on",
        lines=tuple(f"{figure.name} ({figure.source}): {figure.text}" for figure in figures),
    )


def assumptions_section(explanation: Explanation) -> Section:
    """Everything taken for granted, with meaning and source; a source that repeats is given once."""
    lines, known = [], set()
    for assumption in explanation.assumptions:
        source = "" if assumption.source in known else f" Source: {assumption.source}"
        known.add(assumption.source)
        lines.append(f"{assumption.name} = {assumption.value}: {assumption.meaning}{source}")
    return Section(title="Assumptions in force", lines=tuple(lines))


def _short_assumptions_section(explanation: Explanation) -> Section:
    shown = [assumption for assumption in explanation.assumptions if assumption.name in SHORT_ASSUMPTIONS]
    lines = tuple(f"{assumption.name}: {assumption.value}" for assumption in shown)
    return Section(title="Assumptions in force (all of them: --full)", lines=lines)
