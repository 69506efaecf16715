"""The mean SM clock of what runs on a stream: cycles over nanoseconds between two readings of a tiny kernel.

The cycle counters of SMs differ from each other; each is compared with itself. Reading takes a few microseconds of the
GPU and lets the host wait for nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from meshwright.executor.measure_hardware.clock_kernel import read_clocks
from meshwright.executor.measure_hardware.device import Work

MOST_SMS = 512
"""More than any GPU numbers."""

NANOSECOND = 1e-9
Read = Callable[[torch.Tensor, int], None]


class ClockMarks:
    """Places for some readings, taken in the order of their numbers."""

    def __init__(self, count: int, num_sms: int, device: torch.device, read: Read) -> None:
        self._readings = torch.zeros((count, MOST_SMS, 2), dtype=torch.int64, device=device)
        self._places = self._readings.unbind()
        self._num_sms = num_sms
        self._read = read

    def mark(self, place: int) -> Work:
        """What takes reading number `place` on the current stream."""
        return lambda: self._read(self._places[place], self._num_sms)

    def clocks_hz(self) -> tuple[float, ...]:
        """The mean clock from each reading to the next; waits for the GPU. 0 where no SM took part in both."""
        return mean_clocks_hz(self._readings.cpu())


def mean_clocks_hz(readings: torch.Tensor) -> tuple[float, ...]:
    """From (readings, SMs, cycles and nanoseconds), 0 where an SM did not write: the median over SMs, in Hz."""
    written = readings[..., 1] > 0
    both = written[1:] & written[:-1]
    difference = (readings[1:] - readings[:-1]).double()
    valid = both & (difference[..., 0] > 0.0) & (difference[..., 1] > 0.0)
    clocks = difference[..., 0] / difference[..., 1].clamp(min=1.0) / NANOSECOND
    return tuple(
        float(clock[known].median()) if bool(known.any()) else 0.0 for clock, known in zip(clocks, valid, strict=True)
    )


def clock_reader(num_sms: int, device: torch.device) -> Read | None:
    """The kernel, compiled and tried on the current stream; None where triton is missing or cannot compile it."""
    try:
        marks = ClockMarks(2, num_sms, device, read_clocks)
        marks.mark(0)()
        torch.cuda.synchronize(device)
        marks.mark(1)()
        is_right = marks.clocks_hz()[0] > 0.0
    except Exception:  # noqa: BLE001  a compiler that is missing or broken: the reference product tells the clocks alone
        return None
    return read_clocks if is_right else None
