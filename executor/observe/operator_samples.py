"""Times of operators from recorded steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.value import Value
from meshwright.executor.observe.spans import OperatorAt, StepSpans


class OperatorKey(Value, frozen=True, kw_only=True):
    """An operator of a pass of a part of the model, on its stream; `recomputes` where the backward runs it again."""

    title: str
    kind: PassKind
    name: str
    recomputes: bool
    stream: Resource = Resource.COMPUTE


@dataclass(slots=True)
class OperatorSamples:
    """Seconds of every run of an operator, by key."""

    seconds: dict[OperatorKey, list[float]] = field(default_factory=dict)

    def add(self, step: StepSpans) -> None:
        """Count the operators of a recorded step."""
        for span in step.spans:
            if isinstance(span.what, OperatorAt):
                within, operator = span.what.within, span.what.operator
                key = OperatorKey(
                    title=within.title,
                    kind=within.kind,
                    name=operator.name,
                    recomputes=operator.recomputes,
                    stream=span.what.stream,
                )
                self.seconds.setdefault(key, []).append(span.duration_s)
