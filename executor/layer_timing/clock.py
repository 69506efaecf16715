"""Clocks for operators and passes: events on CUDA, the host's clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from meshwright.costmodel.program.operators import Operator
from meshwright.kernels.checking.spread import Spread, spread

SPIN_CYCLES_PER_S = 2.0e9
"""More than any Hopper clock, so that a spin lasts at least as long as asked."""


class Mark:
    """A moment on the device, or on the host where there is no device."""

    def __init__(self, device: torch.device) -> None:
        self._host_s = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    @property
    def has_passed(self) -> bool:
        """Whether the device has come here; does not wait."""
        return self._event is None or bool(self._event.query())

    def seconds_until(self, later: Mark) -> float:
        """Seconds between two marks; the device must have passed both."""
        if self._event is None or later._event is None:
            return later._host_s - self._host_s
        milliseconds: float = self._event.elapsed_time(later._event)
        return milliseconds / 1e3


def let_host_run_ahead(device: torch.device, seconds: float) -> None:
    """Keep the device busy for so long, so that the host issues what follows before the device comes to it."""
    if device.type == "cuda":
        torch.cuda._sleep(int(seconds * SPIN_CYCLES_PER_S))


def wait_for(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(slots=True)
class OperatorClock:
    """Marks before and after every operator of any number of passes."""

    device: torch.device
    marks: dict[str, list[tuple[Mark, Mark]]] = field(default_factory=dict)
    host_s: dict[str, list[float]] = field(default_factory=dict)

    def around(self, operator: Operator, run: Callable[[], None]) -> None:
        """Run an operator between two marks."""
        before = Mark(self.device)
        start_s = time.perf_counter()
        run()
        self.host_s.setdefault(label(operator), []).append(time.perf_counter() - start_s)
        self.marks.setdefault(label(operator), []).append((before, Mark(self.device)))

    def spread_of(self, operator: Operator) -> Spread:
        """An operator's times, once the device is idle."""
        return spread([before.seconds_until(after) for before, after in self.marks[label(operator)]])

    def host_median_s(self, operator: Operator) -> float:
        """What the host took to issue an operator."""
        return spread(self.host_s[label(operator)]).median_s


def label(operator: Operator) -> str:
    """The operator's name, marked where it is run again in the backward."""
    return f"{operator.name} (again)" if operator.recomputes else operator.name
