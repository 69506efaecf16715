"""The parameters of a layer: their full shapes, how a rank's part is cut from them, and the store that holds both
weights and gradients.

Names are those of the operators that use them: `qkv`, `qkv.bias`, `experts_fc1`. Matrices are kept (width out, width
in), those of experts (experts, width out, width in).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from meshwright.costmodel.errors import StrategyError
from meshwright.executor.layer.accumulator import Accumulator
from meshwright.executor.layer.groups import Communicator, LayerGroups


class Cut(StrEnum):
    """The ranks that a parameter is cut over; WHOLE: every rank has all of it."""

    WHOLE = "whole"
    TENSOR = "tensor"
    FFN = "ffn"
    EXPERT = "expert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`count` things (heads, columns, experts) of `size` rows each, which ranks share.

    `even`: they must share them evenly, else the first ranks have one more. With fewer things than ranks, neighbouring
    ranks hold copies.
    """

    count: int
    size: int = 1
    even: bool = True

    def rows(self, ranks: Communicator) -> slice:
        """The rows of a rank, counted from the block's begin.

        >>> [Block(count=7, even=False).rows(Communicator(size=3, rank=rank)) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
        """
        if self.is_copied(ranks):
            first = ranks.rank * self.count // ranks.size
            return slice(first * self.size, (first + 1) * self.size)
        each, left = divmod(self.count, ranks.size)
        first = ranks.rank * each + min(ranks.rank, left)
        return slice(first * self.size, (first + each + (ranks.rank < left)) * self.size)

    def is_copied(self, ranks: Communicator) -> bool:
        """Whether several ranks hold the same."""
        return self.count < ranks.size

    def check(self, name: str, ranks: int) -> None:
        """Raise where the ranks cannot share the block as they must."""
        if self.even and self.count % ranks and ranks % self.count:
            raise StrategyError("layer", name, f"{self.count} parts cannot be shared evenly by {ranks} ranks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """A second cut, of each expert's width: `blocks` along `dim`, over the ranks that share an expert (etp)."""

    dim: int
    blocks: tuple[Block, ...]


Pieces = list[tuple[int, int]]
"""Start and length along a dim of what a rank holds, one piece behind the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Elements `start` to `stop` of a rank's part, row-major, that `ranks` hold copies of.

    The gradient that each of them computes is a part of theirs.
    """

    start: int
    stop: int
    ranks: Communicator


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """A full parameter. `blocks` lie one behind the other along `dim`, each cut over the ranks of `cut`.

    `fill`: None for random weights of variance 1 / width in, else the value that all elements start from. `slices`: how
    experts are cut again.
    """

    name: str
    shape: tuple[int, ...]
    cut: Cut = Cut.WHOLE
    dim: int = 0
    blocks: tuple[Block, ...] = ()
    fill: float | None = None
    slices: Slices | None = None

    def ranks(self, groups: LayerGroups) -> Communicator:
        """The ranks that share it by the first cut."""
        return Communicator() if self.cut is Cut.WHOLE else _communicator(self.cut, groups)

    def num_parts(self, groups: LayerGroups) -> int:
        """The neighbouring ranks that hold one copy together: of an expert, those that share it too."""
        return self.ranks(groups).size * (groups.expert_tensor.size if self.cut is Cut.EXPERT else 1)

    def part(self, full: Tensor, groups: LayerGroups) -> Tensor:
        """This rank's part of the full tensor."""
        for dim, pieces in self.cuts(groups):
            full = _joined(full, dim, pieces)
        return full

    def part_shape(self, groups: LayerGroups) -> torch.Size:
        """The shape of this rank's part."""
        shape = list(self.shape)
        for dim, pieces in self.cuts(groups):
            shape[dim] = sum(length for _, length in pieces)
        return torch.Size(shape)

    def sliced(self, experts: Tensor, groups: LayerGroups) -> Tensor:
        """This rank's slices of some whole experts, (experts, ...)."""
        for dim, pieces in self._slice_cuts(groups):
            experts = _joined(experts, dim, pieces)
        return experts

    def pieces(self, ranks: Communicator) -> Pieces:
        """What a rank holds along `dim`."""
        return _pieces(self.name, self.blocks, ranks)

    def cuts(self, groups: LayerGroups) -> tuple[tuple[int, Pieces], ...]:
        """The dims along which the rank holds less than all, and what it holds there."""
        ranks = self.ranks(groups)
        first = ((self.dim, self.pieces(ranks)),) if ranks.size > 1 else ()
        return (*first, *self._slice_cuts(groups))

    def _slice_cuts(self, groups: LayerGroups) -> tuple[tuple[int, Pieces], ...]:
        ranks = groups.expert_tensor
        if self.slices is None or ranks.size == 1:
            return ()
        return ((self.slices.dim, _pieces(self.name, self.slices.blocks, ranks)),)

    def shared(self, groups: LayerGroups) -> Shared | None:
        """What of this rank's part others among the `num_parts` ranks hold, too, each with a part of the gradient."""
        if self.cut is Cut.EXPERT and self.slices is None and groups.expert_tensor.size > 1:
            numel = math.prod(self.shape) // self.ranks(groups).size
            return Shared(start=0, stop=numel, ranks=groups.expert_tensor)
        if self.cut is Cut.TENSOR and groups.key_value.size > 1:
            return self._shared_heads(groups)
        return None

    def _shared_heads(self, groups: LayerGroups) -> Shared | None:
        """Heads of keys and values, which lie behind those of the queries."""
        own = [block.rows(groups.tensor) for block in self.blocks]
        heads = [rows.stop - rows.start for rows in own]
        copied = [count for count, block in zip(heads, self.blocks, strict=True) if block.is_copied(groups.tensor)]
        width = math.prod(self.shape) // self.shape[self.dim]
        start, stop = (sum(heads) - sum(copied)) * width, sum(heads) * width
        return Shared(start=start, stop=stop, ranks=groups.key_value) if copied else None

    def add_part(self, full: Tensor, part: Tensor, groups: LayerGroups) -> None:
        """Add a rank's part to the full tensor, in place: how gradients of parts become that of the whole."""
        for target, own in _matched(full, part, self.cuts(groups)):
            target.add_(own)


def _pieces(name: str, blocks: tuple[Block, ...], ranks: Communicator) -> Pieces:
    pieces, begin = [], 0
    for block in blocks:
        block.check(name, ranks.size)
        rows = block.rows(ranks)
        pieces.append((begin + rows.start, rows.stop - rows.start))
        begin += block.count * block.size
    return pieces


def _joined(full: Tensor, dim: int, pieces: Pieces) -> Tensor:
    parts = [full.narrow(dim, start, length) for start, length in pieces]
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0].contiguous()


def _matched(full: Tensor, part: Tensor, cuts: tuple[tuple[int, Pieces], ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the whole and of the part that are the same elements."""
    if not cuts:
        yield full, part
        return
    (dim, pieces), begin = cuts[0], 0
    for start, length in pieces:
        yield from _matched(full.narrow(dim, start, length), part.narrow(dim, begin, length), cuts[1:])
        begin += length


def _communicator(cut: Cut, groups: LayerGroups) -> Communicator:
    return {Cut.TENSOR: groups.tensor, Cut.FFN: groups.ffn, Cut.EXPERT: groups.expert}[cut]


class Parameters:
    """Weights of a rank and the gradients that its wgrad operators have added up.

    A gradient that has an accumulator goes there, any other is kept in the format in which it was computed.
    """

    def __init__(self, weights: dict[str, Tensor], accumulators: Mapping[str, Accumulator] | None = None) -> None:
        self.weights = weights
        self.gradients: dict[str, Tensor] = {}
        self._accumulators = accumulators or {}

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[name]

    def get(self, name: str) -> Tensor | None:
        """A weight that not every layer has."""
        return self.weights.get(name)

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Add to the gradient of a weight."""
        gradient = gradient.view(self.weights[name].shape)
        if name in self._accumulators:
            self._accumulators[name].add(gradient)
        elif name in self.gradients:
            self.gradients[name] += gradient
        else:
            self.gradients[name] = gradient

    def add_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """Add the product of two matrices to the gradient of a weight."""
        accumulator = self._accumulators.get(name)
        if accumulator is None:
            self.add_gradient(name, left @ right)
        else:
            accumulator.add_product(left, right)

    def clear_gradients(self) -> None:
        """Forget all gradients."""
        self.gradients = {}


def full_weights(
    specs: tuple[ParameterSpec, ...], device: torch.device, dtype: torch.dtype, seed: int
) -> dict[str, Tensor]:
    """Random full weights, the same on every rank that asks with the same seed on the same kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    return {spec.name: _filled(spec, device, dtype, generator) for spec in specs}


def _filled(spec: ParameterSpec, device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if spec.fill is not None and len(spec.shape) == 1:
        noise = torch.randn(spec.shape, generator=generator, device=device, dtype=torch.float32)
        return (spec.fill + 0.1 * noise).to(dtype)
    weights = torch.empty(spec.shape, device=device, dtype=dtype)
    return weights.normal_(std=spec.shape[-1] ** -0.5, generator=generator)


def own_weights(specs: tuple[ParameterSpec, ...], full: dict[str, Tensor], groups: LayerGroups) -> dict[str, Tensor]:
    """This rank's parts of full weights."""
    return {spec.name: spec.part(full[spec.name], groups) for spec in specs}
