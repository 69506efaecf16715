"""What is saved and loaded: rectangles of named global tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from meshwright.costmodel.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`tensor` is the rectangle of the global tensor `name` that begins at `offsets`; loading fills it in place.

    It may be a view, on any device.
    """

    name: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    tensor: Tensor

    def __post_init__(self) -> None:
        if not len(self.global_shape) == len(self.offsets) == self.tensor.dim():
            raise InputError("checkpoint", self.name, f"{self.words}: expected the same number of dimensions in all")
        ends = zip(self.offsets, self.tensor.shape, self.global_shape, strict=True)
        if any(offset < 0 or offset + size > whole for offset, size, whole in ends):
            raise InputError("checkpoint", self.name, f"{self.words}: expected a part inside")

    @property
    def words(self) -> str:
        """The rectangle, for messages."""
        return f"a part of shape {tuple(self.tensor.shape)} at {self.offsets} of {self.global_shape}"


class ShardedState:
    """The pieces that a rank holds. Empty ones are left out.

    Several ranks may hold the same piece; one of them saves it. All ranks' pieces of a tensor together must be all of
    it, without overlaps other than the same piece.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = tuple(piece for piece in pieces if piece.tensor.numel())

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def num_bytes(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.tensor.nbytes for piece in self._pieces)


def whole(name: str, tensor: Tensor) -> Piece:
    """A tensor that every rank has all of."""
    return Piece(name=name, global_shape=tuple(tensor.shape), offsets=(0,) * tensor.dim(), tensor=tensor)
