"""The host as a device: for tests, and to try the profiler where there is no GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from meshwright.executor.measure_hardware.device import Device, Work

SMALL_CACHE_BYTES = 4096.0
REFERENCE_SIZE = 64


class CpuDevice(Device):
    """Runs at once and is timed by `clock`, which tests replace."""

    captures = False

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.torch_device = torch.device("cpu")
        self.l2_bytes = SMALL_CACHE_BYTES
        self.clock = clock
        self._square = torch.ones((REFERENCE_SIZE, REFERENCE_SIZE))

    def scope(self) -> nullcontext[None]:
        """Nothing to enter."""
        return nullcontext()

    def capture(self, work: Work) -> Work:
        """Nothing to record."""
        return work

    def intervals(self, works: Sequence[Work]) -> tuple[float, ...]:
        """By the clock."""
        seconds = []
        for work in works:
            start = self.clock()
            work()
            seconds.append(max(1e-9, self.clock() - start))
        return tuple(seconds)

    def reference(self) -> None:
        """A product that takes microseconds."""
        torch.mm(self._square, self._square)

    def heat(self, seconds: float) -> None:
        """A CPU needs none."""

    def keep_busy(self) -> None:
        """Nothing runs beside the host's own work."""

    def tidy(self) -> None:
        """Nothing is kept."""

    def check_alive(self) -> None:
        """The process runs."""

    def release(self) -> None:
        """Nothing is cached."""
