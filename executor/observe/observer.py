"""What stands around the parts and operators of every step of a rank."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Operator
from meshwright.executor.observe.operator_samples import OperatorSamples
from meshwright.executor.observe.spans import OperatorAt, PartAt, PassAt, SpanRecorder, StepSpans
from meshwright.executor.stopwatch import StepPart, Stopwatch

NOWHERE = PassAt(title="", kind=PassKind.FORWARD, micro_batch=0)


class StepObserver:
    """Times the parts of steps; in steps that are recorded, every operator as well.

    A recorded step is slower, so that it does not count among those of `stopwatch`. `samples` has the seconds of its
    operators, `latest` all of the last such step.
    """

    def __init__(self, device: torch.device) -> None:
        self.stopwatch = Stopwatch(device)
        self.samples = OperatorSamples()
        self.latest: StepSpans | None = None
        self._device = device
        self._recorder: SpanRecorder | None = None
        self._at = NOWHERE

    def record_step(self) -> None:
        """Record the step that begins now; waits for the device."""
        self._recorder = SpanRecorder(self._device)

    def part(self, part: StepPart, name: str = "") -> AbstractContextManager[None]:
        """Time what runs inside; `name` tells it from others of its kind in a recorded step."""
        if self._recorder is None:
            return self.stopwatch.part(part)
        return self._recorder.around(PartAt(part=part, name=name or part.value))

    def enter(self, title: str, kind: PassKind, micro_batch: int) -> None:
        """The operators that follow are those of this pass."""
        self._at = PassAt(title=title, kind=kind, micro_batch=micro_batch)

    def around(self, operator: Operator, run: Callable[[], None]) -> None:
        """Run an operator of a layer."""
        if self._recorder is None:
            self.stopwatch.around(operator, run)
            return
        with self._recorder.around(OperatorAt(within=self._at, operator=operator)):
            run()

    def end_step(self) -> None:
        """What is timed from here on is of the next step."""
        if self._recorder is None:
            self.stopwatch.end_step()
            return
        self.latest, self._recorder = self._recorder.finish(), None
        self.samples.add(self.latest)
