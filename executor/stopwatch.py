"""How long a rank spends in which part of a step: CUDA events on GPUs, the host's clock elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from meshwright.costmodel.program.operators import Operator


class StepPart(StrEnum):
    """A part of a step. A wait is for a message of another stage.

    EXPOSED lies inside FORWARD and BACKWARD: what computation waits for collectives. COLLECTIVES are whole, also where
    they run beside computation: of layers, and of ZeRO-2 and 3, which reduce and gather in every pass. GRADIENTS are
    reductions once a step, OPTIMIZER has updates and the gathers behind them: on a GPU they, too, may run beside
    FORWARD and BACKWARD; on the host's clock what runs inside these is taken off them.
    """

    FORWARD = "forward"
    BACKWARD = "backward"
    COLLECTIVES = "collectives"
    EXPOSED = "exposed"
    WAIT = "wait"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"


PartTimes = dict[StepPart, float]
"""Seconds by part."""

APART = (StepPart.GRADIENTS, StepPart.OPTIMIZER)
"""Parts that no other part has inside."""

LATEST_STEPS = 1000
"""Steps whose times are kept."""


class Stopwatch:
    """Adds up the time of the parts of each step.

    On a GPU a step's events are read when the next has ended, so that the host does not wait for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._running = _Step()
        self._ended: _Step | None = None
        self._steps: deque[PartTimes] = deque(maxlen=LATEST_STEPS)
        self._free: list[torch.cuda.Event] = []

    @contextmanager
    def part(self, part: StepPart, what: object = None) -> Iterator[None]:
        """Time what runs inside; `what` it is, for `pending`."""
        if not self._on_cuda:
            with self._running.host_part(part):
                yield
            return
        begin = self._event()
        yield
        self._running.pairs.append((part, begin, self._event(), what))

    def pending(self) -> object:
        """What the device has not ended, the innermost; None where it is idle. For other threads, too."""
        for _, _, end, what in list(self._running.pairs):
            if what is not None and not end.query():
                return what
        return None

    def around(self, operator: Operator, run: Callable[[], None], what: object = None) -> None:
        """Run an operator of a layer; collectives are timed. On the compute stream they block."""
        if not operator.is_communication:
            run()
        elif self._is_beside():
            with self.part(StepPart.COLLECTIVES, what):
                run()
        else:
            with self.exchanging(what):
                run()

    @contextmanager
    def exchanging(self, what: object = None) -> Iterator[None]:
        """Time collectives that computation waits for."""
        with self.part(StepPart.COLLECTIVES, what), self.part(StepPart.EXPOSED):
            yield

    def waiting(self, wait: Callable[[], None]) -> None:
        """Make the compute stream wait for a collective on another."""
        with self.part(StepPart.EXPOSED):
            wait()

    def _is_beside(self) -> bool:
        return self._on_cuda and torch.cuda.current_stream() != torch.cuda.default_stream()

    def begin_again(self) -> None:
        """What was timed of this step counts for nothing."""
        self._running = _Step()

    def end_step(self) -> None:
        """What is timed from here on is of the next step."""
        self._read_ended()
        self._ended, self._running = self._running, _Step()

    def steps(self) -> tuple[PartTimes, ...]:
        """The times of the latest steps that have ended, oldest first; waits for the device."""
        self._read_ended()
        return tuple(self._steps)

    def _read_ended(self) -> None:
        if self._ended is None:
            return
        for part, begin, end, _ in self._ended.pairs:
            end.synchronize()
            self._ended.seconds[part] += begin.elapsed_time(end) / 1e3
            self._free += (begin, end)
        self._steps.append(self._ended.seconds)
        self._ended = None

    def _event(self) -> torch.cuda.Event:
        """A point in the order of the device's stream."""
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass(slots=True)
class _Step:
    """Host seconds, or pairs of events around what is timed, and what that is."""

    seconds: PartTimes = field(default_factory=lambda: dict.fromkeys(StepPart, 0.0))
    apart_s: float = 0.0
    pairs: list[tuple[StepPart, torch.cuda.Event, torch.cuda.Event, object]] = field(default_factory=list)

    @contextmanager
    def host_part(self, part: StepPart) -> Iterator[None]:
        """Time what runs inside by the host's clock."""
        start_s, apart_s = time.perf_counter(), self.apart_s
        yield
        lasted_s = time.perf_counter() - start_s
        self.seconds[part] += lasted_s - (self.apart_s - apart_s)
        if part in APART:
            self.apart_s = apart_s + lasted_s
