"""What ran when in one step of a rank: its operators, and the parts of the step around them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Operator, Resource
from meshwright.executor.layer_timing.clock import Mark, wait_for
from meshwright.executor.stopwatch import StepPart


@dataclass(frozen=True, slots=True, kw_only=True)
class PassAt:
    """A pass of a part of the model, which `title` names as the model describer does, with one micro-batch.

    `beside`: a forward that runs beside the backward of another micro-batch.
    """

    title: str
    kind: PassKind
    micro_batch: int
    beside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorAt:
    """An operator of a pass, on the stream that it is issued to."""

    within: PassAt
    operator: Operator
    stream: Resource = Resource.COMPUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAt:
    """A part of the step; `name` tells it from others of its kind. `beside`: as of a pass."""

    part: StepPart
    name: str
    beside: bool = False


What = OperatorAt | PartAt


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that ran, in seconds from the step's start on this rank, on the device's clock."""

    what: What
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpans:
    """A recorded step. `zero_s`: its start by the host's monotonic clock, which all processes of a host share."""

    zero_s: float
    spans: tuple[Span, ...]


@dataclass(slots=True)
class SpanRecorder:
    """Marks before and after everything that runs in one step. Begins on an idle device."""

    device: torch.device
    _entries: list[tuple[What, Mark, Mark | None]] = field(default_factory=list)
    _zero: Mark = field(init=False)
    _zero_s: float = field(init=False)

    def __post_init__(self) -> None:
        wait_for(self.device)
        self._zero_s = time.perf_counter()
        self._zero = Mark(self.device)

    @contextmanager
    def around(self, what: What) -> Iterator[None]:
        """Record what runs inside, by marks on the current stream."""
        begin, place = Mark(self.device), len(self._entries)
        self._entries.append((what, begin, None))
        yield
        self._entries[place] = (what, begin, Mark(self.device))

    def pending(self) -> What | None:
        """What the device has not ended, the innermost; None where it is idle. For other threads, too."""
        for what, _, end in list(self._entries):
            if isinstance(what, OperatorAt) and end is not None and not end.has_passed:
                return what
        return None

    def finish(self) -> StepSpans:
        """What was recorded, in the order in which it began; waits for the device."""
        wait_for(self.device)
        return StepSpans(
            zero_s=self._zero_s,
            spans=tuple(
                Span(what=what, start_s=self._zero.seconds_until(begin), end_s=self._zero.seconds_until(end))
                for what, begin, end in self._entries
                if end is not None
            ),
        )
