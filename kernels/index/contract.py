"""Where each row goes: the maps between slots and rows sorted by expert.

A slot is a token's choice, number t K + k. Rows are sorted by expert, within an expert by slot. Where tokens stand rank
by rank, that is by (expert, source rank, token). Each expert's group of rows is filled up to whole tiles. Buffers have
the size of the worst case, so that the host need not know how many rows there are; groups end where `offsets_E` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.kernels.errors import KernelInputError

OPERATION = "index"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMap:
    """All int32, on the device.

    slots_P: the slot of each row; -1 for padding and behind the last group. places_TK: the row of each slot; -1 where
    its expert is not here, or has no room. counts_E: slots of each expert, those without room included. offsets_E:
    ends of the groups, padding included (what `torch.nn.functional.grouped_mm` takes). tile: rows that groups are
    multiples of.
    """

    slots_P: Tensor
    places_TK: Tensor
    counts_E: Tensor
    offsets_E: Tensor
    tile: int

    @property
    def capacity(self) -> int:
        """Rows of the buffers."""
        return int(self.slots_P.shape[0])

    @property
    def is_padded(self) -> bool:
        """Whether there may be padding between groups."""
        return self.tile > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A buffer of parts with room for so many rows each, one for as many of the experts, which lie in order.

    A part's groups begin where it begins. Slots beyond its room have no place. Parts whose sizes ranks agree on can be
    exchanged without knowing how many rows there are. ends_N: where each ends, int32, on the device.
    """

    rows: tuple[int, ...]
    ends_N: Tensor

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows)

    def placed_counts(self, rowmap: RowMap) -> Tensor:
        """Rows of each expert that have a place in a map of such parts, (count, experts of a part)."""
        ends = rowmap.offsets_E.view(self.count, -1)
        return ends - torch.cat((self.begins_N.unsqueeze(1), ends[:, :-1]), 1)

    @property
    def begins_N(self) -> Tensor:
        """Where each begins, on the device."""
        return F.pad(self.ends_N[:-1], (1, 0))


def capacity(num_slots: int, num_experts: int, tile: int) -> int:
    """Rows in the worst case, a multiple of the tile: each expert with rows may need all but one row of a tile.

    >>> capacity(16, 4, 1), capacity(16, 4, 8), capacity(2, 4, 8)
    (16, 48, 16)
    """
    rows = num_slots + min(num_slots, num_experts) * (tile - 1)
    return -(-rows // tile) * tile


def check_index(experts_TK: Tensor, num_experts: int, tile: int, parts: Parts | None) -> None:
    """Raise where that can't be sorted."""
    if experts_TK.dim() != 2 or experts_TK.is_floating_point():
        raise KernelInputError(
            f"{OPERATION}: experts are {experts_TK.dtype} with {experts_TK.dim()} dims, expected int32 (T, K)"
        )
    if num_experts < 1 or tile < 1:
        raise KernelInputError(f"{OPERATION}: {num_experts} experts in tiles of {tile}, expected at least 1 of each")
    if parts is not None and (parts.count < 1 or min(parts.rows) < 0 or num_experts % parts.count or tile > 1):
        raise KernelInputError(
            f"{OPERATION}: {num_experts} experts in tiles of {tile} in parts of {parts.rows} rows, expected as many"
            " experts in each part, and no tiles"
        )


def moved_bytes(num_slots: int, num_rows: int, num_experts: int) -> int:
    """Bytes that must move: experts in, both maps out, counts and offsets out.

    >>> moved_bytes(16, 16, 4)
    224
    """
    return 4 * (2 * num_slots + num_rows) + 8 * num_experts
