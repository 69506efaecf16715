"""Two plans in words and tables, the largest differences first."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import GIB, Section, gib, milliseconds, percent
from meshwright.planner.describe.step_time import TERMS, VISIBLE_FRACTION
from meshwright.planner.explain.difference import Changed, Difference, TermDifference

NUM_OPERATORS = 15
SIGNS = "change = other - plan: + is more time or memory in the other"


def describe_difference(difference: Difference, names: tuple[str, str]) -> tuple[Section, ...]:
    """Everything that differs between two plans; `names` are what the columns are called."""
    if not _differs(difference):
        return (Section(title=f"{names[0]} and {names[1]}", lines=("predict the same step from the same choices",)),)
    sections = (
        speed_section(difference, names),
        inputs_section(difference, names),
        choices_section(difference, names),
        terms_section(difference, names),
        memory_section(difference, names),
        operators_section(difference, names),
    )
    return tuple(section for section in sections if section.rows or section.lines)


def _differs(difference: Difference) -> bool:
    return bool(difference.inputs or difference.choices or difference.predictions[0] != difference.predictions[1])


def speed_section(difference: Difference, names: tuple[str, str]) -> Section:
    """Step and throughput of both."""
    one, other = difference.predictions
    figures = (
        ("step time", seconds(one.step_time_s), seconds(other.step_time_s), relative(difference.step_s)),
        *(
            (label, f"{getattr(one, name) * scale:,.{digits}f}", f"{getattr(other, name) * scale:,.{digits}f}", change)
            for label, name, scale, digits in FIGURES
            for change in (relative(TermDifference(name=name, one=getattr(one, name), other=getattr(other, name))),)
        ),
    )
    notes = (f"in ms: {difference.step_s.more * 1e3:+z,.1f}", SIGNS)
    return Section(title="Speed", columns=("", *names, "change"), rows=figures, notes=notes)


FIGURES = (
    ("tokens/s", "tokens_per_s", 1.0, 0),
    ("tokens/s a GPU", "tokens_per_s_per_gpu", 1.0, 0),
    ("TFLOP/s a GPU", "tflops_per_gpu", 1.0, 1),
    ("MFU [%]", "mfu", 100.0, 1),
)


def relative(term: TermDifference) -> str:
    """The change as a share of the first.

    >>> relative(TermDifference(name="step", one=2.0, other=2.1))
    '+5.0 %'
    """
    return f"{(term.other / term.one - 1.0) * 100:+z.1f} %" if term.one else "-"


def inputs_section(difference: Difference, names: tuple[str, str]) -> Section:
    """What was planned for, where that differs; then the terms differ for that reason, too."""
    return Section(
        title="Not the same problem: these inputs differ",
        columns=("input", *names),
        rows=tuple(_changed_row(changed) for changed in difference.inputs),
        notes=("so the plans are answers to different questions; terms differ for that reason, too",)
        if difference.inputs
        else (),
    )


def choices_section(difference: Difference, names: tuple[str, str]) -> Section:
    """What was decided otherwise."""
    return Section(
        title="Choices that differ",
        columns=("choice", *names),
        rows=tuple(_changed_row(changed) for changed in difference.choices),
    )


def _changed_row(changed: Changed) -> tuple[str, str, str]:
    return changed.name, changed.one, changed.other


def terms_section(difference: Difference, names: tuple[str, str]) -> Section:
    """The breakdown of both, the largest change first."""
    step = difference.step_s
    rows = [
        _row(TERMS.get(term.name, term.name), term, step.one)
        for term in difference.breakdown_s
        if max(abs(term.one), abs(term.other)) >= VISIBLE_FRACTION * step.one
    ]
    return Section(
        title="Where the step goes, in ms (mean over the stages' GPUs)",
        columns=("term", *names, "change"),
        rows=(*rows, _row("step", step, step.one)),
    )


def operators_section(difference: Difference, names: tuple[str, str], number: int = NUM_OPERATORS) -> Section:
    """The operators whose seconds differ most."""
    step_s = difference.step_s.one
    changed = [term for term in difference.operators_s if abs(term.more) >= VISIBLE_FRACTION * step_s]
    return Section(
        title="Operators that differ, in ms a step, each alone (mean over the stages' GPUs)",
        columns=("operator", *names, "change"),
        rows=tuple(_row(term.name, term, step_s) for term in changed[:number]),
        notes=(f"{len(changed) - number} more differ",) if len(changed) > number else (),
    )


def _row(name: str, term: TermDifference, of_s: float) -> tuple[str, ...]:
    return (
        name,
        milliseconds(term.one, of_s),
        milliseconds(term.other, of_s),
        milliseconds(term.more, of_s, sign="+"),
    )


def memory_section(difference: Difference, names: tuple[str, str]) -> Section:
    """The fullest stage of each, term by term."""
    limits = tuple(prediction.memory_limit_bytes for prediction in difference.predictions)
    totals = tuple(max(prediction.peak_memory_bytes) for prediction in difference.predictions)
    shares = (percent(total / limit) for total, limit in zip(totals, limits, strict=True))
    rows = tuple(
        (term.name, gib(term.one), gib(term.other), f"{term.more / GIB:+z.1f}")
        for term in (*difference.memory_bytes, TermDifference(name="peak", one=totals[0], other=totals[1]))
    )
    stages = " and ".join(map(str, difference.fullest_stages))
    return Section(
        title=f"Memory in GiB of the fullest stages ({stages})",
        columns=("term", *names, "change"),
        rows=(*rows, ("of limit", *shares, "")),
    )


def grown(terms: tuple[TermDifference, ...], least: float) -> Iterator[TermDifference]:
    """The terms that are more in the other, by at least so much, the one that grew most first."""
    return (term for term in terms if term.more >= least)
