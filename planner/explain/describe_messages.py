"""Communication outside layers in a table: of model state, between stages, before the update."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.units import format_bytes, format_time
from meshwright.planner.describe.section import Section, milliseconds
from meshwright.planner.explain.explanation import Explanation
from meshwright.planner.explain.marks import Marks
from meshwright.planner.explain.messages import MessageTerm

STATE_TITLE = "Communication outside layers (of model state: mean over the stages' GPUs)"


def messages_section(explanation: Explanation) -> Section:
    """Gathers and reductions of all layers together, hops, the agreement on the gradient norm."""
    marks = Marks("F")
    rows = (*_state_rows(explanation, marks), *(_message_row(term, marks) for term in explanation.messages))
    return Section(
        title=STATE_TITLE,
        columns=("of", "what, algorithm", "bytes", "group", "alone", "ms a step", "by"),
        rows=rows,
        notes=marks.notes(),
    )


def _state_rows(explanation: Explanation, marks: Marks) -> Iterator[tuple[str, ...]]:
    totals: dict[tuple[str, str, str, tuple[str, ...]], tuple[float, float]] = {}
    for part in explanation.parts:
        for state in part.state:
            for one in state.collectives:
                times = part.count / explanation.num_stages
                times *= explanation.num_micro_batches if one.per_micro_batch else 1
                what = f"{one.collective.value.replace('_', '-')}, {one.algorithm}"
                key = (f"{one.kind}: {state.weights}", what, one.group, one.formulas)
                num_bytes, time_s = totals.get(key, (0.0, 0.0))
                totals[key] = (num_bytes + times * one.num_bytes, time_s + times * one.time_s)
    step_s = explanation.prediction.step_time_s
    for (name, what, group, formulas), (num_bytes, time_s) in totals.items():
        yield name, what, format_bytes(num_bytes), group, "-", milliseconds(time_s, step_s), marks.of(formulas)


def _message_row(term: MessageTerm, marks: Marks) -> tuple[str, ...]:
    what = f"{term.collective}, {term.algorithm}"
    number = f" ({len(term.hops)} hops)" if term.hops else ""
    mark = marks.of(term.formulas)
    return f"{term.what}{number}", what, format_bytes(term.num_bytes), term.group, format_time(term.time_s), "-", mark
