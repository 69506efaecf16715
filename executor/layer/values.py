"""The tensors of a layer while it runs, by the names of its program, and the small things that ride along with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT

Rider = TypeVar("Rider")


class Values:
    """Named tensors. A gradient that several operators write is their sum.

    A *rider* is what an operator hands on beside the tensors of the program because the program leaves it out as too
    small: `ffn_in.gates` are the gate weights of the rows of ffn_in, `ln1_out.scale` is the norm's statistics. It goes
    by the name of the tensor it rides with, and only operators behind that tensor may ask for it.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._riders: dict[str, object] = {}
        self._joined: dict[tuple[str, ...], Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor; a gradient that is already there grows."""
        if name.startswith(GRADIENT) and name in self._tensors:
            tensor = self._tensors[name] + tensor
        self._tensors[name] = tensor

    def move(self, name: str, tensor: Tensor) -> None:
        """The same values in another place."""
        self._tensors[name] = tensor

    def ride(self, tensor: str, name: str, rider: object) -> None:
        """Hand `rider` on beside a tensor."""
        self._riders[f"{tensor}.{name}"] = rider

    def rider(self, tensor: str, name: str, kind: type[Rider]) -> Rider:
        """What rides beside a tensor."""
        rider = self._riders[f"{tensor}.{name}"]
        if not isinstance(rider, kind):
            raise TypeError(f"{tensor}.{name} is a {type(rider).__name__}, expected {kind.__name__}")
        return rider

    def take_rider(self, tensor: str, name: str, kind: type[Rider]) -> Rider | None:
        """What rides beside a tensor, if it has not been taken: for what is large or happens once."""
        taken = self.rider(tensor, name, kind) if f"{tensor}.{name}" in self._riders else None
        self._riders.pop(f"{tensor}.{name}", None)
        return taken

    def optional_rider(self, tensor: str, name: str) -> Tensor | None:
        """The tensor that rides beside a tensor, if one does."""
        rider = self._riders.get(f"{tensor}.{name}")
        return rider if isinstance(rider, Tensor) else None

    def joined(self, names: tuple[str, ...], join: Callable[[list[Tensor]], Tensor] | None = None) -> Tensor:
        """The named tensors side by side, (T, sum of widths): a view where they lie so, else one copy for all users."""
        parts = [self._tensors[name] for name in names]
        if join is None and (view := side_by_side(parts)) is not None:
            return view
        if names not in self._joined:
            self._joined[names] = (join or _beside)(parts)
        return self._joined[names]

    def drop(self, names: Iterable[str]) -> None:
        """Forget tensors, and copies made of them. Riders stay: they are small and their readers are not declared."""
        gone = set(names)
        for name in gone:
            self._tensors.pop(name, None)
        for group in [group for group in self._joined if gone.intersection(group)]:
            del self._joined[group]

    def names(self) -> frozenset[str]:
        """The tensors that are there."""
        return frozenset(self._tensors)


def _beside(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


def side_by_side(parts: list[Tensor]) -> Tensor | None:
    """One view of neighbouring columns, or None where they are not neighbours in one buffer."""
    if len(parts) == 1:
        return parts[0].flatten(1)
    if any(part.dim() != 2 or part.stride(1) != 1 or part.stride(0) != parts[0].stride(0) for part in parts):
        return None
    width = sum(part.shape[1] for part in parts)
    storage = parts[0].untyped_storage().data_ptr()
    neighbours = all(right.storage_offset() == left.storage_offset() + left.shape[1] for left, right in pairwise(parts))
    if not neighbours or parts[0].stride(0) < width or any(p.untyped_storage().data_ptr() != storage for p in parts):
        return None
    return parts[0].as_strided((parts[0].shape[0], width), (parts[0].stride(0), 1))
