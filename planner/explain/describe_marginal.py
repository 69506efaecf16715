"""What a little more of each resource saves, in words and tables."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import Section, percent
from meshwright.planner.explain.marginal import Marginal, MarginalValue

MAX_CHOICES = 4


def held_section(marginal: Marginal) -> Section:
    """With the plan held: milliseconds of the step for each unit added."""
    return Section(
        title="What a little more would save, this plan held",
        columns=("resource", "has", "added", "step [ms]", "of step", "ms a unit"),
        rows=tuple(_held_row(marginal, value) for value in marginal.values),
        notes=(*_held_notes(marginal), "saved time has a minus; --marginal finds the best plan for each"),
    )


def _held_row(marginal: Marginal, value: MarginalValue) -> tuple[str, ...]:
    has, added = f"{value.amount:,.5g} {value.unit}", f"+{value.added:,.4g}"
    if value.held_saving_s is None:
        return value.what, has, added, "-", "-", "-"
    return (
        value.what,
        has,
        added,
        _signed(value.held_saving_s * 1e3),
        f"{_signed(value.held_saving_s / marginal.step_s * 100)} %",
        f"{_signed(value.held_saving_s / value.added * 1e3, 3)} a {value.unit}",
    )


def _signed(saved: float, digits: int = 1) -> str:
    """What is saved as a change, with its sign; nothing is 0.

    >>> _signed(12.34), _signed(-0.5), _signed(0.0)
    ('-12.3', '+0.5', '0')
    """
    return "0" if abs(saved) < 0.5 * 10.0**-digits else f"{-saved:+z,.{digits}f}"


def _held_notes(marginal: Marginal) -> Iterator[str]:
    for value in marginal.values:
        if value.held_reason:
            yield f"{value.what}: {value.held_reason}"
        if value.resource == "memory":
            yield "memory alone changes nothing while the plan is held: it has to be planned with"


def describe_marginal(marginal: Marginal) -> tuple[Section, ...]:
    """Held and re-solved."""
    baseline = marginal.baseline
    if baseline is None:
        return (held_section(marginal),)
    rows = tuple(_resolved_row(value) for value in marginal.values)
    gap = percent(1.0 - baseline.lower_bound_s / baseline.objective_s)
    again = (
        f"this plan {seconds(marginal.step_s)}; planned again for the same cluster {seconds(baseline.step_s)}; with"
        f" operators in the order in which searches compare plans {seconds(baseline.objective_s)}, lower bound"
        f" {seconds(baseline.lower_bound_s)} (gap {gap})"
    )
    resolved = Section(
        title="What a little more would save, planned again for it",
        columns=("resource", "added", "step [ms]", "ms a unit", "proven: from", "to [ms]", ""),
        rows=rows,
        notes=(again, *_resolved_notes(marginal)),
    )
    return held_section(marginal), resolved


def _resolved_row(value: MarginalValue) -> tuple[str, ...]:
    added = f"+{value.added:,.4g} {value.unit}"
    if value.saving_s is None or value.saving_interval_s is None:
        return value.what, added, "-", "-", "-", "-", "no plan"
    least_s, most_s = value.saving_interval_s
    return (
        value.what,
        added,
        _signed(value.saving_s * 1e3),
        f"{_signed(value.saving_s / value.added * 1e3, 3)} a {value.unit}",
        _signed(most_s * 1e3),
        _signed(least_s * 1e3),
        "within the certificate's gap" if value.is_within_gap else "",
    )


def _resolved_notes(marginal: Marginal) -> Iterator[str]:
    yield (
        "what this plan itself saves, in the table above, is exact under the model; the best step of a cluster is known"
        " within its search's gap only, so that the change from best to best is proven to lie between two figures (with"
        " operators in the order in which searches compare plans)"
    )
    for value in marginal.values:
        if value.resolved_reason:
            yield f"{value.what}: {value.resolved_reason}"
        if value.resolved and value.resolved.choices:
            changed = [f"{choice.name} {choice.one} -> {choice.other}" for choice in value.resolved.choices]
            more = f", {len(changed) - MAX_CHOICES} more" if len(changed) > MAX_CHOICES else ""
            yield f"{value.what}: planned with {', '.join(changed[:MAX_CHOICES])}{more}"
