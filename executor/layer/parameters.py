"""The parameters of a layer: their full shapes, how a rank's part is cut from them, and the store that holds both
weights and gradients.

Names are those of the operators that use them: `qkv`, `qkv.bias`, `experts_fc1`. Matrices are kept (width out, width
in), those of experts (experts, width out, width in).
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """`count` things (heads, columns, experts) of `size` rows each, which ranks share evenly.

    With fewer things than ranks, neighbouring ranks hold copies.
    """

    count: int
    size: int = 1

    def rows(self, ranks: Communicator) -> slice:
        """The rows of a rank, counted from the block's begin."""
        if self.count >= ranks.size:
            each = self.count // ranks.size
            return slice(ranks.rank * each * self.size, (ranks.rank + 1) * each * self.size)
        first = ranks.rank * self.count // ranks.size
        return slice(first * self.size, (first + 1) * self.size)

    def check(self, name: str, ranks: int) -> None:
        """Raise where the ranks cannot share the block evenly."""
        if self.count % ranks and ranks % self.count:
            raise StrategyError("layer", name, f"{self.count} parts cannot be shared evenly by {ranks} ranks")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """A full parameter. `blocks` lie one behind the other along `dim`, each cut over the ranks of `cut`.

    `fill`: None for random weights of variance 1 / width in, else the value that all elements start from.
    """

    name: str
    shape: tuple[int, ...]
    cut: Cut = Cut.WHOLE
    dim: int = 0
    blocks: tuple[Block, ...] = ()
    fill: float | None = None

    def ranks(self, groups: LayerGroups) -> Communicator:
        """The ranks that share it."""
        return Communicator() if self.cut is Cut.WHOLE else _communicator(self.cut, groups)

    def part(self, full: Tensor, groups: LayerGroups) -> Tensor:
        """This rank's part of the full tensor."""
        if self.ranks(groups).size == 1:
            return full
        parts = [full.narrow(self.dim, start, length) for start, length in self.pieces(self.ranks(groups))]
        return torch.cat(parts, self.dim) if len(parts) > 1 else parts[0].contiguous()

    def pieces(self, ranks: Communicator) -> list[tuple[int, int]]:
        """Start and length along `dim` of what a rank holds."""
        pieces, begin = [], 0
        for block in self.blocks:
            block.check(self.name, ranks.size)
            rows = block.rows(ranks)
            pieces.append((begin + rows.start, rows.stop - rows.start))
            begin += block.count * block.size
        return pieces

    def add_part(self, full: Tensor, part: Tensor, ranks: Communicator) -> None:
        """Add a rank's part to the full tensor, in place: how gradients of parts become that of the whole."""
        if self.cut is Cut.WHOLE:
            full.add_(part)
            return
        begin = 0
        for start, length in self.pieces(ranks):
            full.narrow(self.dim, start, length).add_(part.narrow(self.dim, begin, length))
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
