"""Parameters that the same ranks hold copies of, side by side in one buffer: what is reduced, updated and gathered.

Of each buffer a rank keeps the shard that it updates: master weights in FP32 (or wider) and the same in the training
format. Ranks of `shards` have a shard each, those of `replicas` the same one: under ZeRO-0 all copies are replicas,
with sharding over all of them none is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        return self.spec.part_shape(self.groups)

    @property
    def room(self) -> int:
        """Elements that it takes in a buffer."""
        return -(-self.shape.numel() // ALIGNMENT) * ALIGNMENT

    @property
    def even_share(self) -> int:
        """Elements of the whole over the ranks that share it: the same on each, where their parts may differ."""
        return -(-math.prod(self.spec.shape) // self.spec.num_parts(self.groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatKind:
    """What parameters of one buffer have in common.

    split: neighbours that share one copy. decays: weight decay applies. tied: first and last stage both hold them.
    """

    split: int
    decays: bool
    tied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """The ranks that hold copies of the same parameters: `shards` have a shard each, `replicas` the same shard.

    `ends`: the ranks of first and last stage with the same tied weights.
    """

    shards: Communicator = ALONE
    replicas: Communicator = ALONE
    ends: Communicator = ALONE

    @property
    def num_copies(self) -> int:
        """Ranks of a stage that hold the same."""
        return self.shards.size * self.replicas.size

    @property
    def is_first(self) -> bool:
        """Whether this rank is the first of them."""
        return self.shards.rank == self.replicas.rank == 0


class FlatParameters:
    """One buffer. `keeps_whole`: the weights in the training format are there in full, not only this rank's shard.

    `on_host`: masters, and so the optimizer, are in host memory (ZeRO-Offload). `rounded`, beside the masters, is where
    an update leaves this rank's shard in the training format: the shard itself, or host memory that is then sent to it.
    """

    def __init__(
        self,
        kind: FlatKind,
        owned: Sequence[OwnedParameter],
        holders: Holders,
        *,
        keeps_whole: bool = True,
        on_host: bool = False,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.kind = kind
        self.owned = tuple(owned)
        self.holders = holders
        step = holders.num_copies * ALIGNMENT
        self.size = -(-sum(one.room for one in owned) // step) * step
        self.shard_size = self.size // holders.shards.size
        self.weights = torch.zeros(self.size if keeps_whole else self.shard_size, dtype=dtype, device=device)
        self.weight_shard = self.weights[self.shard] if keeps_whole else self.weights
        place = torch.device("cpu") if on_host else device
        self.master = torch.zeros(self.shard_size, dtype=statistics_type(dtype), device=place)
        self.rounded = host_room(self.weight_shard, dtype) if on_host else self.weight_shard

    @property
    def shard(self) -> slice:
        """Where this rank's shard lies."""
        start = self.holders.shards.rank * self.shard_size
        return slice(start, start + self.shard_size)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The parameters, by name, that lie in a whole buffer."""
        views, start = {}, 0
        for one in self.owned:
            views[one.name] = buffer[start : start + one.shape.numel()].view(one.shape)
            start += one.room
        return views

    def gaps(self) -> Iterator[slice]:
        """Where no parameter lies."""
        start = 0
        for one in self.owned:
            if one.shape.numel() < one.room:
                yield slice(start + one.shape.numel(), start + one.room)
            start += one.room
        if start < self.size:
            yield slice(start, self.size)

    def fill(self, draw: Callable[[OwnedParameter, Tensor], Tensor]) -> None:
        """Set this rank's shard; `draw` gives this rank's part of a parameter in the format of a tensor."""
        exact = self.weights.new_zeros(self.size, dtype=self.master.dtype)
        for one, view in zip(self.owned, self.views(exact).values(), strict=True):
            view.copy_(draw(one, view))
        self.master.copy_(exact[self.shard])
        self.round_weights()

    def round_weights(self) -> None:
        """Set this rank's shard of the weights from its masters."""
        self.rounded.copy_(self.master)
        self.send_rounded()

    def send_rounded(self) -> None:
        """Bring what was rounded to where layers use it. The next update waits until the device has done so."""
        if self.rounded is not self.weight_shard:
            self.weight_shard.copy_(self.rounded, non_blocking=True)

    def segments(self) -> Iterator[tuple[OwnedParameter, int, slice]]:
        """What of which parameter lies in this rank's shard: from which element of the rank's part, and where."""
        begin, shard = 0, self.shard
        for one in self.owned:
            first, last = max(begin, shard.start), min(begin + one.shape.numel(), shard.stop)
            if first < last:
                yield one, first - begin, slice(first - shard.start, last - shard.start)
            begin += one.room

    def master_parts(self) -> dict[str, Tensor]:
        """This rank's parts of the master weights, by name; a collective of the ranks with other shards."""
        return self.views(all_gather_rows(self.master.to(self.weights.device), self.holders.shards))


def host_room(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Host memory for as many elements; pinned where they come from or go to a GPU."""
    return torch.zeros(like.shape, dtype=dtype, pin_memory=like.is_cuda)
