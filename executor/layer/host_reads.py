"""The one place where a layer waits for the device: reading numbers that only the device knows.

A single rank never does, and neither does balanced routing, whose numbers are known beforehand. What remains, the split
sizes of a dropless exchange, is counted, so that a run can say how often it waited.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from meshwright.executor.layer.groups import Communicator

Exchanging = Callable[[], AbstractContextManager[None]]
"""Times what runs inside: collectives of an operator that is no collective itself."""


class HostReads:
    """Reads numbers from the device and counts how often. `exchanging`: around the collectives that bring them."""

    def __init__(self, exchanging: Exchanging = nullcontext) -> None:
        self.count = 0
        self._exchanging = exchanging

    def exchange(self, ranks: Communicator) -> AbstractContextManager[None]:
        """Collectives of these ranks run inside, for which they wait."""
        return self._exchanging() if ranks.size > 1 else nullcontext()

    def read(self, numbers: Tensor) -> list[int]:
        """The numbers on the host: a synchronization on CUDA."""
        self.count += 1
        return [int(number) for number in numbers.flatten().tolist()]
