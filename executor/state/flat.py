"""Parameters that the same ranks hold copies of, side by side in one buffer: what is reduced, updated and gathered.

A buffer has the weights in the training format, the sums of their gradients, and this rank's shard of the master
weights, gradients and masters in FP32 (or wider). Under ZeRO-1 the shard is an equal part of the buffer for each copy,
under ZeRO-0 all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.executor.layer.accumulator import Accumulator
from meshwright.executor.layer.collectives import all_gather_rows
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.groups import ALONE, Communicator, LayerGroups
from meshwright.executor.layer.parameters import ParameterSpec

ALIGNMENT = 64
"""Elements that every parameter begins at a multiple of: kernels ask for 16 bytes, copies like more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedParameter:
    """A rank's part of a parameter, which the model calls `name`."""

    name: str
    spec: ParameterSpec
    groups: LayerGroups

    @property
    def shape(self) -> torch.Size:
        """The shape of this rank's part."""
        return self.spec.part(torch.empty(self.spec.shape, device="meta"), self.groups).shape

    @property
    def room(self) -> int:
        """Elements that it takes in a buffer."""
        return -(-self.shape.numel() // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatKind:
    """What parameters of one buffer have in common.

    split: neighbours that share one copy. decays: weight decay applies. tied: first and last stage both hold them.
    """

    split: int
    decays: bool
    tied: bool = False


class FlatParameters:
    """One buffer. `copies`: the ranks that hold the same; `ends`: those of first and last stage, for tied weights.

    `sums_wide`: gradients of micro-batches are summed in FP32 (or wider), otherwise in the format of the weights.
    """

    def __init__(
        self,
        kind: FlatKind,
        owned: Sequence[OwnedParameter],
        *,
        copies: Communicator,
        ends: Communicator = ALONE,
        shards: bool,
        sums_wide: bool = True,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.kind = kind
        self.owned = tuple(owned)
        self._owned = {one.name: one for one in owned}
        self.copies = copies
        self.ends = ends
        self.shards = shards and copies.size > 1
        step = copies.size * ALIGNMENT
        self.size = -(-sum(one.room for one in owned) // step) * step
        self.weights = torch.zeros(self.size, dtype=dtype, device=device)
        wide = statistics_type(dtype)
        self.gradients = torch.zeros(self.size, dtype=wide if sums_wide else dtype, device=device)
        self.master = torch.zeros(self.shard_size, dtype=wide, device=device)
        self.weight_of = self._views(self.weights)
        self.accumulator_of = {name: Accumulator(view) for name, view in self._views(self.gradients).items()}

    @property
    def shard_size(self) -> int:
        """Elements of this rank's shard."""
        return self.size // self.copies.size if self.shards else self.size

    @property
    def shard(self) -> slice:
        """Where this rank's shard lies."""
        start = self.copies.rank * self.shard_size if self.shards else 0
        return slice(start, start + self.shard_size)

    def _views(self, buffer: Tensor) -> dict[str, Tensor]:
        views, start = {}, 0
        for one in self.owned:
            views[one.name] = buffer[start : start + one.shape.numel()].view(one.shape)
            start += one.room
        return views

    def fill(self, draw: Callable[[OwnedParameter, Tensor], Tensor]) -> None:
        """Set weights and master weights; `draw` gives this rank's part of a parameter in the format of a tensor."""
        exact = self.gradients.to(self.master.dtype)
        for name, view in self._views(exact).items():
            view.copy_(draw(self._owned[name], view))
        self.master.copy_(exact[self.shard])
        self.weights.copy_(exact)
        self.gradients.zero_()

    def restart_gradients(self) -> None:
        """Forget the sums of the step before."""
        for accumulator in self.accumulator_of.values():
            accumulator.restart()

    def finish_gradients(self) -> None:
        """What got no gradient has one of zero."""
        for accumulator in self.accumulator_of.values():
            accumulator.finish()

    def segments(self) -> Iterator[tuple[OwnedParameter, int, slice]]:
        """What of which parameter lies in this rank's shard: from which element of the rank's part, and where."""
        begin, shard = 0, self.shard
        for one in self.owned:
            first, last = max(begin, shard.start), min(begin + one.shape.numel(), shard.stop)
            if first < last:
                yield one, first - begin, slice(first - shard.start, last - shard.start)
            begin += one.room

    def master_parts(self) -> dict[str, Tensor]:
        """This rank's parts of the master weights, by name; a collective of the copies."""
        return self._views(all_gather_rows(self.master, self.copies) if self.shards else self.master)
