"""The answer to "why not?" in words."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.units import format_bytes
from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import Section, percent
from meshwright.planner.describe.step_time import TERMS, VISIBLE_FRACTION
from meshwright.planner.explain.describe_difference import (
    choices_section,
    grown,
    memory_section,
    operators_section,
    relative,
    terms_section,
)
from meshwright.planner.explain.difference import Difference
from meshwright.planner.explain.why_not import Held, Verdict, WhyNot

NUM_OPERATORS = 8
NAMED = 3
MIB = 2.0**20
NAMES = ("plan", "with it")


def describe_why_not(answer: WhyNot) -> tuple[Section, ...]:
    """The verdict with its numbers, then the best plan with the choice beside the plan."""
    lines = (*_made_lines(answer), *_reason_lines(answer), *_held_lines(answer.held), *_best_lines(answer))
    notes = tuple(f"note: {warning}" for warning in answer.warnings)
    verdict = Section(title=f"Why not {answer.asked}? {_verdict_words(answer)}", lines=lines, notes=notes)
    best = answer.best
    if best is None:
        return (verdict,)
    return (
        verdict,
        choices_section(best, NAMES),
        terms_section(best, NAMES),
        memory_section(best, NAMES),
        operators_section(best, NAMES, NUM_OPERATORS),
    )


def _verdict_words(answer: WhyNot) -> str:
    if answer.verdict is Verdict.ALREADY:
        return "It is the plan's choice already"
    if answer.verdict is Verdict.ILLEGAL:
        return "It is illegal here"
    if answer.verdict is Verdict.DOES_NOT_FIT or answer.best is None:
        return "No plan with it fits in memory"
    step = answer.best.step_s
    change = f"{abs(step.more) * 1e3:,.1f} ms ({relative(step)})"
    if answer.verdict is Verdict.SLOWER:
        return f"The best plan with it is slower by {change}"
    if answer.verdict is Verdict.FASTER:
        return f"A plan with it is faster by {change}, beyond the gap of this plan's certificate"
    way = "slower" if step.more >= 0 else "faster"
    return f"A plan with it is {way} by {change}: within the gap to which plans were searched"


def _made_lines(answer: WhyNot) -> Iterator[str]:
    for name, counts in answer.made.items():
        if len(counts) == 1:
            yield f"the plan has {name}={next(iter(counts))}"
        elif counts:
            yield f"the plan has {name}: {', '.join(f'{value} in {count} layers' for value, count in counts.items())}"
        else:
            yield f"the plan has nothing that {name} is about"


def _reason_lines(answer: WhyNot) -> Iterator[str]:
    if answer.reason:
        yield answer.reason
    if answer.verdict is Verdict.FASTER:
        yield (
            "the plan was pinned otherwise, or was made by another version, or the choice is one of those that are only"
            " searched where pinned: plan again, with it pinned"
        )


def _held_lines(held: Held | None) -> Iterator[str]:
    """What the choice breaks, or costs, with all else of the plan held."""
    if held is None:
        return
    difference = held.difference
    if difference is None:
        yield f"all else of the plan cannot be held with it: {held.reason}"
        return
    step = difference.step_s
    change = f"{step.more * 1e3:+z,.1f} ms ({relative(step)})"
    if not held.over_limit:
        grows = _growth(difference)
        yield f"with all else of the plan held it fits, and the step is {change}{': ' + grows if grows else ''}"
        return
    worst = held.over_limit[0]
    more = f", {len(held.over_limit) - 1} more stages are over it" if len(held.over_limit) > 1 else ""
    yield (
        f"with all else of the plan held the step would be {change}, but stage {worst.stage} needs"
        f" {format_bytes(worst.needed_bytes)} ({worst.needed_bytes:,.0f} bytes) of {format_bytes(worst.limit_bytes)}:"
        f" {format_bytes(worst.over_bytes)} ({worst.over_bytes:,.0f} bytes) over the limit{more}"
    )
    memory = [f"{term.name} +{format_bytes(term.more)}" for term in grown(difference.memory_bytes, MIB)]
    if memory:
        yield f"of the fullest stage: {', '.join(memory)}"


def _growth(difference: Difference) -> str:
    """The terms that grow most."""
    least_s = VISIBLE_FRACTION * difference.step_s.one
    terms = list(grown(difference.breakdown_s, least_s))[:NAMED]
    return ", ".join(f"{TERMS[term.name]} {term.more * 1e3:+z,.1f} ms" for term in terms)


def _best_lines(answer: WhyNot) -> Iterator[str]:
    best, certificate, own_s = answer.best, answer.certificate, answer.own_objective_s
    if best is None or certificate is None or own_s is None:
        return
    yield (
        f"the best plan with it: {seconds(best.step_s.other)} against {seconds(best.step_s.one)}"
        f" ({certificate.candidates:,} candidates, searched in {certificate.solve_time_s:.1f} s)"
    )
    yield (
        f"proven, with operators in the order in which searches compare plans: no plan with it takes less than"
        f" {seconds(certificate.lower_bound_s)}, this plan {seconds(own_s)} (gap {percent(certificate.gap)})"
    )
    grows = _growth(best)
    if grows:
        yield f"what grows: {grows}"
