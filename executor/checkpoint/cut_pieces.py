"""The pieces of a parameter that a strategy cuts, and of flat shards of it (ZeRO)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from meshwright.executor.checkpoint.pieces import Piece
from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.parameters import ParameterSpec, Pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """Offsets and sizes along every dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """Elements inside."""
        return math.prod(self.sizes)


def rectangles(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Rectangle]:
    """Elements `start` to `stop` of a tensor in row-major order, as rectangles in that order: few, whole rows together.

    >>> [(part.offsets, part.sizes) for part in rectangles((4, 3), 2, 10)]
    [((0, 2), (1, 1)), ((1, 0), (2, 3)), ((3, 0), (1, 1))]
    """
    if start >= stop:
        return
    if len(shape) <= 1:
        yield Rectangle(offsets=(start,) * len(shape), sizes=(stop - start,) * len(shape))
        return
    inner = math.prod(shape[1:])
    first = -(-start // inner)  # the first row that begins inside
    last = stop // inner  # the row in which the range ends
    if first > last:  # within one row
        yield from _row(shape, last, start - last * inner, stop - last * inner)
        return
    if start < first * inner:
        yield from _row(shape, first - 1, start - (first - 1) * inner, inner)
    if last > first:
        yield Rectangle(offsets=(first, *(0 for _ in shape[1:])), sizes=(last - first, *shape[1:]))
    yield from _row(shape, last, 0, stop - last * inner)


def _row(shape: tuple[int, ...], row: int, start: int, stop: int) -> Iterator[Rectangle]:
    for part in rectangles(shape[1:], start, stop):
        yield Rectangle(offsets=(row, *part.offsets), sizes=(1, *part.sizes))


def part_pieces(name: str, spec: ParameterSpec, groups: LayerGroups, part: Tensor) -> Iterator[Piece]:
    """The pieces of a rank's part of a parameter, as `ParameterSpec.part` cuts it."""
    yield from _placed(name, spec, groups, Rectangle(offsets=(0,) * part.dim(), sizes=tuple(part.shape)), part)


def flat_pieces(
    name: str, spec: ParameterSpec, groups: LayerGroups, flat: Tensor, *, start: int, part_shape: tuple[int, ...]
) -> Iterator[Piece]:
    """The pieces of a flat shard, (n,): elements `start` to `start + n` of a rank's part of a parameter."""
    begin = 0
    for rectangle in rectangles(part_shape, start, start + flat.numel()):
        own = flat.narrow(0, begin, rectangle.num_elements).view(rectangle.sizes)
        yield from _placed(name, spec, groups, rectangle, own)
        begin += rectangle.num_elements


def _placed(name: str, spec: ParameterSpec, groups: LayerGroups, local: Rectangle, tensor: Tensor) -> Iterator[Piece]:
    """A rectangle of a rank's part as pieces of the whole: one for each of the spec's pieces that it meets."""
    placed = [(local.offsets, tensor)]
    for dim, pieces in spec.cuts(groups):
        placed = [part for offsets, own in placed for part in _met(offsets, own, dim, pieces)]
    for offsets, own in placed:
        yield Piece(name=name, global_shape=spec.shape, offsets=offsets, tensor=own)


def _met(
    offsets: tuple[int, ...], tensor: Tensor, dim: int, pieces: Pieces
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """A rectangle split along a dim by the pieces that the part has there, at their places in the whole."""
    place, begin, end = 0, offsets[dim], offsets[dim] + tensor.shape[dim]
    for start, length in pieces:
        first, last = max(begin, place), min(end, place + length)
        if first < last:
            whole = (*offsets[:dim], start + first - place, *offsets[dim + 1 :])
            yield whole, tensor.narrow(dim, first - begin, last - first)
        place += length
