"""Room for the rows that ranks exchange, so that no host waits to know how many there are.

Which experts tokens choose is known on the device alone. Messages to a rank, and its buffers, have room for somewhat
more rows than that rank, or the one at its place in another replica, has lately needed. Rows beyond that have no place:
such a step counts for nothing and is done once more with exactly as many rows as there are, for which the host waits.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from meshwright.kernels.index.contract import Parts

EXCHANGES = 3
"""Numbers of rows that a layer does not know beforehand: two hops of copies, and the rows that these make."""

WINDOW = 8
"""Steps that say how much needs vary."""

NO_LIMIT = torch.iinfo(torch.int32).max
LEAST_ROWS = 16


def room_for(needed_WN: Tensor) -> Tensor:
    """Rows to have room for where the latest steps have needed so many, oldest first, int64 on the CPU, (N,).

    What the last needed, twice the most that one has needed more than the one before, though no more than an eighth
    above what was most needed, and what chance alone varies; an eighth more while they are few. In few sizes, so that
    memory which is free fits the next step.

    >>> room_for(torch.tensor([[16384, 100, 0]])), room_for(torch.tensor([[16000]] * 7 + [[16384]]))
    (tensor([18944,   160,    16]), tensor([17664]))
    """
    last, most = needed_WN[-1], needed_WN.amax(0)
    spare = torch.minimum(2 * needed_WN.diff(dim=0, prepend=needed_WN[:1]).amax(0), most + most // 8 - last)
    if len(needed_WN) < WINDOW:
        spare = torch.maximum(spare, last // 8)
    rows = last + spare + 2 * last.to(torch.float64).sqrt().to(torch.int64) + LEAST_ROWS
    unit = torch.exp2((rows.to(torch.float64).log2().floor() - 6).clamp(min=4)).to(torch.int64)
    return (rows + unit - 1) // unit * unit


class LayerRoom:
    """That of one layer on one rank. Exchanges are numbered in their order, and the ranks of each."""

    def __init__(self, rooms: ExchangeRooms, layer: int) -> None:
        self._rooms = rooms
        self._layer = layer

    def to_all(self, exchange: int, num_ranks: int) -> Parts | None:
        """A part for what goes to each rank; None: as many rows as there are."""
        return self._parts(exchange, slice(0, num_ranks))

    def of_one(self, exchange: int, rank: int) -> Parts | None:
        """The only part of what one rank has; None: as many rows as there are."""
        return self._parts(exchange, slice(rank, rank + 1))

    def note(self, exchange: int, counts_E: Tensor, first_rank: int, num_ranks: int) -> None:
        """Ranks one after another have needed so many rows this time, by expert or other equal parts of each."""
        seen = self._rooms.needed[self._layer, exchange, first_rank : first_rank + num_ranks]
        torch.maximum(seen, counts_E.view(num_ranks, -1).sum(1, dtype=seen.dtype), out=seen)

    def _parts(self, exchange: int, ranks: slice) -> Parts | None:
        if self._rooms.rows is None:
            return None
        limits = self._rooms.limits[self._layer, exchange, ranks]
        rows = tuple(self._rooms.rows[self._layer][exchange][ranks])
        return Parts(rows=rows, ends_N=limits.cumsum(0, dtype=torch.int32))


class ExchangeRooms:
    """Those of all layers of a rank, each of whose experts are on `num_ranks` ranks at most.

    needed: rows that would have been enough in all exchanges since `restart`, (layers, EXCHANGES, num_ranks), int32 on
    the device. limits: what there is room for, alike. rows: the same on the host; None where nothing has a limit.
    """

    def __init__(self, num_layers: int, num_ranks: int, device: torch.device) -> None:
        self.needed = torch.zeros(num_layers, EXCHANGES, num_ranks, dtype=torch.int32, device=device)
        self.limits = torch.full_like(self.needed, NO_LIMIT)
        self.rows: list[list[list[int]]] | None = None
        self._latest: deque[Tensor] = deque(maxlen=WINDOW)

    def of_layer(self, layer: int) -> LayerRoom:
        """The room of one layer."""
        return LayerRoom(self, layer)

    def restart(self) -> None:
        """A step begins."""
        self.needed.zero_()

    def overflowed(self) -> Tensor:
        """Whether any exchange since `restart` had too little room, on the device."""
        return (self.needed > self.limits).any()

    def lift(self) -> None:
        """As many rows as there are, until the next `learn`."""
        self.rows = None
        self.limits.fill_(NO_LIMIT)

    def learn(self, needed: Tensor) -> None:
        """What the step has needed on any rank of the stage, as `needed` but on the CPU: all ranks decide alike."""
        if not needed.numel():
            return
        self._latest.append(needed.flatten().to(torch.int64))
        wanted = room_for(torch.stack(tuple(self._latest)))
        if self.rows is not None:  # what is enough, and not a sixteenth too much, stays
            current = torch.tensor(self.rows).flatten()
            stays = (wanted <= current) & (current <= wanted + wanted // 16)
            if bool(stays.all()):
                return
            wanted = torch.where(stays, current, wanted)
        by_exchange = wanted.view_as(self.needed)
        self.rows = by_exchange.tolist()
        self.limits.copy_(by_exchange)
