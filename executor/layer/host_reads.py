"""The one place where a layer waits for the device: reading numbers that only the device knows.

A single rank never does, and neither does balanced routing, whose numbers are known beforehand. What remains, the split
sizes of a dropless exchange, is counted, so that a run can say how often it waited.
"""

from __future__ import annotations

from torch import Tensor


class HostReads:
    """Reads numbers from the device and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, numbers: Tensor) -> list[int]:
        """The numbers on the host: a synchronization on CUDA."""
        self.count += 1
        return [int(number) for number in numbers.flatten().tolist()]
