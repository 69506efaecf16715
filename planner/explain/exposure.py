"""How much of each communication of a pass computation waits for, and how much runs beside it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from meshwright.costmodel.order.ordered_pass import OrderedPass
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.order.timeline import OperatorSpan
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.value import Value


class Exposure(Value, frozen=True, kw_only=True):
    """Seconds of one communication in which computation waits for it, and seconds' worth of it that hide."""

    exposed_s: float
    hidden_s: float


class Wait(Value, frozen=True, kw_only=True):
    """A time in which computation stands still while some links communicate."""

    start_s: float
    end_s: float
    num_busy: int


def exposures(ordered: OrderedPass) -> dict[str, Exposure]:
    """Exposure of every communication of a pass, by operator name. Sums by link are those of `OrderedPass.use`.

    A communication that blocks is exposed in full, one in a fused kernel as far as the kernel does not hide it. Of one
    on a stream of its own the seconds count in which no computation runs; where several links are busy then, they
    share these seconds equally, and what is not exposed is hidden.
    """
    spans, problem = ordered.timeline().spans, ordered.problem
    alone_s = {op.name: time_s for op, time_s in zip(problem.operators, problem.time_s, strict=True)}
    waits = tuple(_waits(spans))
    return {span.name: _exposure(problem, span, alone_s[span.name], waits) for span in spans if span.is_communication}


def _exposure(problem: PassProblem, span: OperatorSpan, alone_s: float, waits: tuple[Wait, ...]) -> Exposure:
    if span.fused_with:
        inside_s = _hidden_inside_s(problem, {span.name, *span.fused_with})
        return Exposure(exposed_s=alone_s - inside_s, hidden_s=inside_s)
    if span.stream is Resource.COMPUTE:
        return Exposure(exposed_s=alone_s, hidden_s=0.0)
    during = ((min(span.end_s, wait.end_s) - max(span.start_s, wait.start_s), wait.num_busy) for wait in waits)
    exposed_s = sum(length_s / num_busy for length_s, num_busy in during if length_s > 0.0)
    return Exposure(exposed_s=exposed_s, hidden_s=max(0.0, alone_s - exposed_s))


def _hidden_inside_s(problem: PassProblem, names: set[str]) -> float:
    """Seconds of its communication that the fused kernel of these operators hides."""
    operators = problem.operators
    pair = next(pair for pair in problem.pairs if {operators[index].name for index in pair.members} == names)
    return problem.fused_times_s(pair)[1]


def _waits(spans: tuple[OperatorSpan, ...]) -> Iterator[Wait]:
    """Every time between two starts or ends in which the compute stream is idle and a link communicates."""
    moments = sorted({moment for span in spans for moment in (span.start_s, span.end_s)})
    for start_s, end_s in pairwise(moments):
        busy = [span.stream for span in spans if span.start_s <= start_s and span.end_s >= end_s > span.start_s]
        if busy and Resource.COMPUTE not in busy:
            communicating = [stream for stream in busy if stream is not Resource.COPY_ENGINE]
            if communicating:
                yield Wait(start_s=start_s, end_s=end_s, num_busy=len(communicating))
