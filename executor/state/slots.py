"""Room for whole buffers of one or two parts of the model at a time, which other parts reuse."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.executor.state.flat import FlatParameters

PartFlats = Mapping[str, tuple[FlatParameters, ...]]
"""The buffers that parts of the model have parameters in, by the part's title, in model order."""


def flats_of(parts: PartFlats) -> tuple[FlatParameters, ...]:
    """All buffers, each once, in the order of the first part that needs it."""
    return tuple(dict.fromkeys(flat for flats in parts.values() for flat in flats))


class Slots:
    """`count` slots; neighbours in model order have different ones, so that one is at work while the next is filled.

    `parts` that have no buffers have no slot.
    """

    def __init__(self, parts: PartFlats, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self._parts = {part: flats for part, flats in parts.items() if flats}
        self._number = {part: index % count for index, part in enumerate(self._parts)}
        sizes = {part: sum(flat.size for flat in flats) for part, flats in self._parts.items()}
        self._rooms = [
            torch.zeros(
                max(sizes[part] for part, own in self._number.items() if own == number), dtype=dtype, device=device
            )
            for number in range(min(count, len(sizes)))
        ]

    def __contains__(self, part: str) -> bool:
        return part in self._number

    def number(self, part: str) -> int:
        """The slot of a part."""
        return self._number[part]

    def buffers(self, part: str) -> dict[FlatParameters, Tensor]:
        """Where the buffers of a part lie, whole, while it has its slot."""
        found, start = {}, 0
        for flat in self._parts[part]:
            found[flat] = self._rooms[self._number[part]][start : start + flat.size]
            start += flat.size
        return found
