"""The one place where a layer waits for the device: reading numbers that only the device knows.

A single rank never does, neither does balanced routing, whose numbers are known beforehand, nor an exchange that has
room. What remains, the split sizes of an exchange without, is counted, so that a run can say how often it waited.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from meshwright.executor.layer.exchange_room import LayerRoom
from meshwright.executor.layer.groups import Communicator
from meshwright.kernels.index.contract import Parts

Exchanging = Callable[[], AbstractContextManager[None]]
"""Times what runs inside: collectives of an operator that is no collective itself."""


class HostReads:
    """Reads numbers from the device for one layer and counts how often.

    `exchanging`: around the collectives that bring them. `room`: what exchanges of the layer have room for; None where
    they always bring as many rows as there are.
    """

    def __init__(self, exchanging: Exchanging = nullcontext, room: LayerRoom | None = None) -> None:
        self.count = 0
        self._exchanging = exchanging
        self._room = room

    def exchange(self, ranks: Communicator) -> AbstractContextManager[None]:
        """Collectives of these ranks run inside, for which they wait."""
        return self._exchanging() if ranks.size > 1 else nullcontext()

    def room_to_all(self, exchange: int, num_ranks: int) -> Parts | None:
        """Room for what an exchange brings to each rank; None: it brings as many rows as there are."""
        return None if self._room is None else self._room.to_all(exchange, num_ranks)

    def room_of_one(self, exchange: int, rank: int) -> Parts | None:
        """Room for what one rank has; None: as many rows as there are."""
        return None if self._room is None else self._room.of_one(exchange, rank)

    def note(self, exchange: int, counts_E: Tensor, *, first_rank: int = 0, num_ranks: int = 1) -> None:
        """Ranks one after another have needed so many rows in an exchange, by expert or other equal parts of each."""
        if self._room is not None:
            self._room.note(exchange, counts_E, first_rank, num_ranks)

    def read(self, numbers: Tensor) -> list[int]:
        """The numbers on the host: a synchronization on CUDA."""
        self.count += 1
        return [int(number) for number in numbers.flatten().tolist()]
