"""How a tensor of a file lies in one of ours: a region of it, its rows maybe in another order.

One of our tensors is tiled by its regions, so that import and export are each other's inverse to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Interleaved:
    """Rows whose rotary coordinates lie in pairs in the file and in two halves here.

    Rows come in groups (heads) of `group`; rows `begin` to `begin + width` of each are rotary. In the file, coordinates
    2 i and 2 i + 1 turn together (DeepSeek's layout), here i and i + width / 2 (Llama's): scores are the same.
    """

    group: int
    begin: int
    width: int

    def to_halves(self, rows: Tensor) -> Tensor:
        """From the file's order to ours."""
        return self._ordered(rows, torch.arange(self.width).view(-1, 2).t().flatten())

    def to_pairs(self, rows: Tensor) -> Tensor:
        """From our order to the file's."""
        return self._ordered(rows, torch.arange(self.width).view(2, -1).t().flatten())

    def _ordered(self, rows: Tensor, order: Tensor) -> Tensor:
        whole = torch.arange(self.group)
        whole[self.begin : self.begin + self.width] = self.begin + order
        groups = rows.view(-1, self.group, *rows.shape[1:])
        return groups[:, whole.to(rows.device)].reshape(rows.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """`source`, of `shape` in the file, is `target[index]`."""

    source: str
    shape: tuple[int, ...]
    index: tuple[int | slice, ...] = ()
    order: Interleaved | None = None

    @property
    def is_expert(self) -> bool:
        """Whether it lies in one of the experts that a tensor stacks."""
        return bool(self.index) and isinstance(self.index[0], int)

    def of_expert(self, first: int) -> Region:
        """The same where experts are counted from `first`."""
        expert, *rest = self.index
        assert isinstance(expert, int)
        return replace(self, index=(expert - first, *rest))

    def put(self, target: Tensor, tensor: Tensor) -> None:
        """Copy the file's tensor into its place."""
        target[self.index].copy_(tensor if self.order is None else self.order.to_halves(tensor))

    def take(self, target: Tensor) -> Tensor:
        """The file's tensor, from its place."""
        own = target[self.index]
        return (own if self.order is None else self.order.to_pairs(own)).contiguous()
