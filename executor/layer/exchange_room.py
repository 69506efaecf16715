"""Room for the rows that ranks exchange, so that no host waits to know how many there are.

Which experts tokens choose is known on the device alone. Messages and buffers have room for somewhat more rows than any
rank of the stage has lately needed, the same everywhere. Rows beyond that have no place: such a step counts for nothing
and is done once more with exactly as many rows as there are, for which the host waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

EXCHANGES = 3
"""Numbers of rows that a layer does not know beforehand: two hops of copies, and the rows that these make."""

WINDOW = 8
"""Steps that say how much room is needed."""

NO_LIMIT = torch.iinfo(torch.int64).max


def room_for(needed: int) -> int:
    """Rows to have room for where so many were needed: an eighth more, and four times what chance alone varies.

    In few sizes, so that memory which is free fits the next step.

    >>> room_for(16384), room_for(100), room_for(0)
    (19456, 176, 16)
    """
    rows = needed + needed // 8 + 4 * math.isqrt(needed) + 16
    unit = max(16, 1 << (rows.bit_length() - 5))
    return -(-rows // unit) * unit


class LayerRoom:
    """That of one layer on one rank. Exchanges are numbered in their order."""

    def __init__(self, rooms: ExchangeRooms, layer: int) -> None:
        self._rooms = rooms
        self._layer = layer

    def rows(self, exchange: int) -> int | None:
        """Rows to have room for; None: as many as there are."""
        return self._rooms.rows[self._layer][exchange]

    def note(self, exchange: int, needed: Tensor) -> None:
        """So many rows would have been enough this time, a number on the device."""
        seen = self._rooms.needed[self._layer, exchange]
        torch.maximum(seen, needed.to(seen.dtype), out=seen)


class ExchangeRooms:
    """Those of all layers of a rank.

    needed: rows that would have been enough in all exchanges since `restart`, (layers, EXCHANGES) int64 on the device.
    rows: what there is room for now, None where that has no limit.
    """

    def __init__(self, num_layers: int, device: torch.device) -> None:
        self.needed = torch.zeros(num_layers, EXCHANGES, dtype=torch.int64, device=device)
        self.rows: list[list[int | None]] = [[None] * EXCHANGES for _ in range(num_layers)]
        self._limits = torch.full_like(self.needed, NO_LIMIT)
        self._latest: deque[list[int]] = deque(maxlen=WINDOW)

    def of_layer(self, layer: int) -> LayerRoom:
        """The room of one layer."""
        return LayerRoom(self, layer)

    def restart(self) -> None:
        """A step begins."""
        self.needed.zero_()

    def overflowed(self) -> Tensor:
        """Whether any exchange since `restart` had too little room, on the device."""
        return (self.needed > self._limits).any()

    def lift(self) -> None:
        """As many rows as there are, until the next `learn`."""
        self._use([None] * self.needed.numel())

    def learn(self, needed: Sequence[int]) -> None:
        """What the step has needed on any rank of the stage, in the order of `needed`: all ranks decide alike."""
        self._latest.append(list(needed))
        wanted = [room_for(max(numbers)) for numbers in zip(*self._latest, strict=True)]
        current = [rows for layer in self.rows for rows in layer]
        self._use([_kept(now, want) for now, want in zip(current, wanted, strict=True)])

    def _use(self, rows: Sequence[int | None]) -> None:
        by_layer = [list(rows[first : first + EXCHANGES]) for first in range(0, len(rows), EXCHANGES)]
        if by_layer == self.rows:
            return
        self.rows = by_layer
        limits = [NO_LIMIT if one is None else one for one in rows]
        self._limits.copy_(torch.tensor(limits, dtype=torch.int64).view_as(self._limits))


def _kept(current: int | None, wanted: int) -> int:
    """The room there is, unless it is too little or a quarter too much."""
    return current if current is not None and wanted <= current <= wanted * 5 // 4 else wanted
