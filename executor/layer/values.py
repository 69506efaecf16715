"""The tensors of a layer while it runs, by the names of its program, and the small things that ride along with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Resource

Rider = TypeVar("Rider")

Key = tuple[str, ...]
"""(name,) of a tensor, (tensor, name) of a rider."""


HERE = frozenset((Resource.COMPUTE,))


@dataclass(slots=True)
class Use:
    """What an operator was given, with its homes, and what it has written."""

    read: list[tuple[Key, object, frozenset[Resource]]] = field(default_factory=list)
    written: list[tuple[Key, object]] = field(default_factory=list)


class Values:
    """Named tensors. A gradient that several operators write is their sum.

    A *rider* is what an operator hands on beside the tensors of the program because the program leaves it out as too
    small: `ffn_in.gates` are the gate weights of the rows of ffn_in, `ln1_out.scale` is the norm's statistics. It goes
    by the name of the tensor it rides with, and only operators behind that tensor may ask for it.

    `homes`: the streams that memory was allocated on, where that may be another than the compute stream (`streams.py`).
    """

    def __init__(self) -> None:
        self.homes: dict[Key, frozenset[Resource]] = {}
        self._tensors: dict[str, Tensor] = {}
        self._riders: dict[str, object] = {}
        self._joined: dict[tuple[str, ...], Tensor] = {}
        self._use: Use | None = None

    @contextmanager
    def noted(self) -> Iterator[Use]:
        """Note what is read and written inside; copies that `joined` makes are made and read by computation alone."""
        self._use = use = Use()
        try:
            yield use
        finally:
            self._use = None

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self._note_read((name,), tensor)
        return tensor

    def _note_read(self, key: Key, thing: object) -> None:
        if self._use is not None:
            self._use.read.append((key, thing, self.homes.get(key, HERE)))

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor; a gradient that is already there grows."""
        if name.startswith(GRADIENT) and name in self._tensors:
            tensor = self[name] + tensor
        self.move(name, tensor)

    def move(self, name: str, tensor: Tensor) -> None:
        """The same values in another place."""
        self._tensors[name] = tensor
        self.homes.pop((name,), None)
        if self._use is not None:
            self._use.written.append(((name,), tensor))

    def take(self, name: str, source: Values, its_name: str) -> None:
        """Take over a tensor of another layer, or one of this under another name."""
        homes = source.homes.get((its_name,))
        self._tensors[name] = source._tensors[its_name]
        source.drop((its_name,))
        if homes is not None:
            self.homes[name,] = homes

    def ride(self, tensor: str, name: str, rider: object) -> None:
        """Hand `rider` on beside a tensor. An operator that is run again hands on what it did: the first stays."""
        if f"{tensor}.{name}" in self._riders:
            return
        self._riders[f"{tensor}.{name}"] = rider
        if self._use is not None:
            self._use.written.append(((tensor, name), rider))

    def rider(self, tensor: str, name: str, kind: type[Rider]) -> Rider:
        """What rides beside a tensor."""
        rider = self._riders[f"{tensor}.{name}"]
        if not isinstance(rider, kind):
            raise TypeError(f"{tensor}.{name} is a {type(rider).__name__}, expected {kind.__name__}")
        self._note_read((tensor, name), rider)
        return rider

    def take_rider(self, tensor: str, name: str, kind: type[Rider]) -> Rider | None:
        """What rides beside a tensor, if it has not been taken: for what is large or happens once."""
        taken = self.rider(tensor, name, kind) if f"{tensor}.{name}" in self._riders else None
        self._riders.pop(f"{tensor}.{name}", None)
        return taken

    def optional_rider(self, tensor: str, name: str) -> Tensor | None:
        """The tensor that rides beside a tensor, if one does."""
        rides = isinstance(self._riders.get(f"{tensor}.{name}"), Tensor)
        return self.rider(tensor, name, Tensor) if rides else None

    def joined(self, names: tuple[str, ...], join: Callable[[list[Tensor]], Tensor] | None = None) -> Tensor:
        """The named tensors side by side, (T, sum of widths): a view where they lie so, else one copy for all users."""
        parts = [self[name] for name in names]
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
            self.homes.pop((name,), None)
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
