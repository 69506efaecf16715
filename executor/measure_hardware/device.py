"""What the timer needs of a device. `CudaDevice` measures by events of the GPU, `CpuDevice` by the host's clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from meshwright.costmodel.errors import MeshwrightError


class DeviceLostError(MeshwrightError):
    """No kernel runs any more in this process: nothing further can be measured by it."""


REFERENCE_TRIALS = 3
Work = Callable[[], object]


class Clocked(NamedTuple):
    """Seconds of each of some works, and the mean SM clock during each; no clocks where they cannot be read."""

    seconds: tuple[float, ...]
    clocks_hz: tuple[float, ...]


class Device(ABC):
    """One device, and how its time is told."""

    torch_device: torch.device
    l2_bytes: float
    captures: bool
    _reference_s: float | None = None

    @abstractmethod
    def scope(self) -> AbstractContextManager[object]:
        """Everything that is measured is made and run inside."""

    @abstractmethod
    def capture(self, work: Work) -> Work:
        """The same work recorded, so that running it costs the host little."""

    @abstractmethod
    def intervals(self, works: Sequence[Work]) -> tuple[float, ...]:
        """Seconds of each of the works, one right after the other."""

    def clocked_intervals(self, works: Sequence[Work]) -> Clocked:
        """As `intervals`, with the clocks where the device can read them."""
        return Clocked(self.intervals(works), ())

    def durations(self, work: Work, count: int) -> tuple[float, ...]:
        """Seconds of each of `count` runs of the work, one right after the other."""
        return self.intervals([work] * count)

    @abstractmethod
    def reference(self) -> None:
        """One large product: what its time says of the clocks, it says of everything beside it that computes."""

    def reference_s(self) -> float:
        """About how long the reference product takes, tried once."""
        if self._reference_s is None:
            self._reference_s = min(self.durations(self.reference, REFERENCE_TRIALS))
        return self._reference_s

    @abstractmethod
    def heat(self, seconds: float) -> None:
        """Large products for so long, to reach the clocks and the temperature of sustained work."""

    @abstractmethod
    def keep_busy(self) -> None:
        """Start some large products and do not wait for them: no pause while the next sample is made ready."""

    @abstractmethod
    def tidy(self) -> None:
        """Called after each sample: what it used may be given back."""

    @abstractmethod
    def check_alive(self) -> None:
        """Called after something failed: a `DeviceLostError` where nothing works any more."""

    @abstractmethod
    def release(self) -> None:
        """Give cached memory back."""
