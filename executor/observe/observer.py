"""What stands around the parts and operators of every step of a rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Operator, Resource
from meshwright.executor.observe.operator_samples import OperatorSamples
from meshwright.executor.observe.spans import OperatorAt, PartAt, PassAt, SpanRecorder, StepSpans
from meshwright.executor.observe.whereabouts import Whereabouts, operator_words, pass_words
from meshwright.executor.stopwatch import StepPart, Stopwatch

WAITS = (StepPart.WAIT, StepPart.GRADIENTS, StepPart.OPTIMIZER)
"""Parts that have messages or collectives of their own."""

WAITS_WORD = "waits: "
"""Begins the names of waits, as the simulator's trace has them."""

NOWHERE = PassAt(title="", kind=PassKind.FORWARD, micro_batch=0)


class StepObserver:
    """Times the parts of steps; in steps that are recorded, every operator as well.

    A recorded step is slower, so that it does not count among those of `stopwatch`. `samples` has the seconds of its
    operators, `latest` all of the last such step.
    """

    def __init__(self, device: torch.device, whereabouts: Whereabouts | None = None) -> None:
        self.whereabouts = whereabouts or Whereabouts()
        self.stopwatch = Stopwatch(device)
        self.samples = OperatorSamples()
        self.latest: StepSpans | None = None
        self._device = device
        self._recorder: SpanRecorder | None = None
        self._at = NOWHERE
        self._streams: Mapping[str, Resource] = {}

    def record_step(self) -> None:
        """Record the step that begins now; waits for the device."""
        self._recorder = SpanRecorder(self._device)

    def part(self, part: StepPart, name: str = "") -> AbstractContextManager[None]:
        """Time what runs inside; `name` tells it from others of its kind."""
        self.whereabouts.do(name.removeprefix(WAITS_WORD) or part.value, waits=part in WAITS)
        what = PartAt(part=part, name=name or part.value)
        if self._recorder is None:
            return self.stopwatch.part(part, what if part in WAITS else None)
        return self._recorder.around(what)

    @contextmanager
    def joint_part(self, forward: str, backward: str) -> Iterator[None]:
        """Time a forward and a backward that run beside each other: as a backward; a recorded step shows both."""
        self.whereabouts.do(backward, waits=False)
        if self._recorder is None:
            with self.stopwatch.part(StepPart.BACKWARD):
                yield
            return
        with (
            self._recorder.around(PartAt(part=StepPart.FORWARD, name=forward, beside=True)),
            self._recorder.around(PartAt(part=StepPart.BACKWARD, name=backward)),
        ):
            yield

    def enter(
        self,
        title: str,
        kind: PassKind,
        micro_batch: int,
        streams: Mapping[str, Resource] | None = None,
        *,
        beside: bool = False,
    ) -> None:
        """The operators that follow are those of this pass (`Watch`)."""
        self._at = PassAt(title=title, kind=kind, micro_batch=micro_batch, beside=beside)
        self._streams = streams or {}
        self.whereabouts.enter(self._at)

    def around(self, operator: Operator, run: Callable[[], None]) -> None:
        """Run an operator of a layer. Marks are on the current stream, which is the operator's own."""
        self.whereabouts.operator(operator)
        if self._recorder is None and not operator.is_communication:
            run()
            return
        stream = self._streams.get(operator.name, Resource.COMPUTE)
        what = OperatorAt(within=self._at, operator=operator, stream=stream)
        if self._recorder is None:
            self.stopwatch.around(operator, run, what)
            return
        with self._recorder.around(what):
            run()

    def exchanging(self) -> AbstractContextManager[None]:
        """Time collectives that run inside an operator of another kind. A recorded step has the operator whole."""
        return self.stopwatch.exchanging() if self._recorder is None else nullcontext()

    def waiting(self, wait: Callable[[], None]) -> None:
        """Make the compute stream wait for another."""
        if self._recorder is None:
            self.stopwatch.waiting(wait)
        else:
            wait()

    def end_step(self) -> None:
        """What is timed from here on is of the next step."""
        if self._recorder is None:
            self.stopwatch.end_step()
            return
        self.latest, self._recorder = self._recorder.finish(), None
        self.samples.add(self.latest)

    def device_at(self) -> str:
        """What the device has not ended, in words; nothing where it is idle. For other threads, too."""
        recorder = self._recorder
        match self.stopwatch.pending() if recorder is None else recorder.pending():
            case OperatorAt(within=within, operator=operator):
                return f"{pass_words(within)}, {operator_words(operator)}"
            case PartAt(name=name):
                return name
            case _:
                return ""
