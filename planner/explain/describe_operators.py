"""The operators and the communication that take most of a step, in tables."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.units import format_bytes, format_time
from meshwright.costmodel.value import Value
from meshwright.planner.describe.section import Section, milliseconds, percent
from meshwright.planner.explain.explanation import Explanation
from meshwright.planner.explain.marks import Marks
from meshwright.planner.explain.operators import CURVE, OperatorTerm

NUM_HEAVIEST = 8
NUM_MESSAGES = 6


class StepOperator(Value, frozen=True, kw_only=True):
    """An operator with how often a GPU runs it in a step, the mean over the stages."""

    term: OperatorTerm
    pass_name: str
    times: float

    @property
    def step_s(self) -> float:
        """Seconds a step."""
        return self.times * self.term.time_s


def step_operators(explanation: Explanation) -> tuple[StepOperator, ...]:
    """Every operator of the step, the one that takes most first; equal ones of several parts count together."""
    per_layer = explanation.num_micro_batches / explanation.num_stages
    found: dict[tuple[object, ...], StepOperator] = {}
    for part in explanation.parts:
        for one in part.passes:
            for term in one.operators:
                key = (term.name, one.name, term.work, term.num_bytes, term.time_s, term.recomputes)
                before = found[key].times if key in found else 0.0
                times = before + part.count * per_layer
                found[key] = StepOperator(term=term, pass_name=one.name, times=times)
    return tuple(sorted(found.values(), key=lambda operator: -operator.step_s))


def heaviest(explanation: Explanation, number: int = NUM_HEAVIEST) -> tuple[StepOperator, ...]:
    """The operators of computation that take most of the step."""
    return tuple(operator for operator in step_operators(explanation) if operator.term.axis is None)[:number]


def heaviest_section(explanation: Explanation, number: int = NUM_HEAVIEST) -> Section:
    """The operators of computation that take most of the step."""
    shown, step_s = heaviest(explanation, number), explanation.prediction.step_time_s
    others = [operator for operator in step_operators(explanation) if operator.term.axis is None][number:]
    rest_s = sum(operator.step_s for operator in others)
    marks = Marks("F")
    rows = [
        (
            operator_words(operator.term),
            operator.term.work,
            format_time(operator.term.time_s),
            f"{operator.times:,.0f}",
            milliseconds(operator.step_s, step_s),
            percent(operator.term.of_peak),
            operator.term.basis.value,
            marks.of(operator.term.formulas),
        )
        for operator in shown
    ]
    rest = (f"{len(others)} more operators take {milliseconds(rest_s, step_s)} ms",) if rest_s else ()
    return Section(
        title=f"The {len(shown)} operators that take most (mean over the stages' GPUs)",
        columns=("operator", "work", "alone", "times a step", "ms a step", "of peak", "rests on", "by"),
        rows=tuple(rows),
        notes=(*rest, *marks.notes()),
    )


def communication_section(explanation: Explanation, number: int = NUM_MESSAGES) -> Section:
    """The communication inside layers that takes most: how much of it hides."""
    messages = [operator for operator in step_operators(explanation) if operator.term.axis is not None]
    step_s = explanation.prediction.step_time_s
    marks = Marks("F")
    rows = [
        (
            operator_words(operator.term),
            f"{operator.term.work}, {operator.term.algorithm}",
            format_bytes(operator.term.num_bytes),
            operator.term.group,
            format_time(operator.term.time_s),
            *(
                milliseconds(operator.times * seconds, step_s)
                for seconds in (operator.term.time_s, operator.term.exposed_s, operator.term.hidden_s)
            ),
            marks.of(operator.term.formulas),
        )
        for operator in messages[:number]
    ]
    return Section(
        title="Communication inside layers (mean over the stages' GPUs)",
        columns=("operator", "what, algorithm", "bytes", "group", "alone", "ms a step", "exposed", "hidden", "by"),
        rows=tuple(rows),
        notes=(*_message_notes(messages, number, step_s), *marks.notes()),
    )


def _message_notes(messages: list[StepOperator], number: int, step_s: float) -> Iterator[str]:
    rest_s = sum(operator.step_s for operator in messages[number:])
    if rest_s:
        yield f"{len(messages) - number} more take {milliseconds(rest_s, step_s)} ms"
    if any(operator.term.algorithm == CURVE for operator in messages):
        yield f"{CURVE}: time against bytes as measured inside a node, by collective and number of ranks"


def operator_words(term: OperatorTerm) -> str:
    """Its name, and whether it runs again in the backward."""
    return f"{term.name} (again)" if term.recomputes else term.name
