"""Whole weights on the first rank, one parameter after another, from the parts that ranks hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.executor.checkpoint.pieces import Piece, whole
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.model.build import RankModel
from meshwright.executor.state.training_state import shard_pieces


def weight_pieces(model: RankModel) -> Iterator[Piece]:
    """A rank's shards of the weights in the training format, and the biases that balance experts."""
    for flat in model.flats:
        yield from shard_pieces("", flat, flat.weight_shard)
    for name, tensor in model.constants.items():
        yield whole(name, tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A piece without its elements, and the rank that gives them."""

    rank: int
    name: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype


def gather_whole(pieces: Iterable[Piece], names: Sequence[str], ranks: Communicator) -> Iterator[tuple[str, Tensor]]:
    """Parameters by name in the order of `names`, in host memory, on the first rank; nothing on others.

    All ranks must iterate to the end. `ranks`: all of them, by a group that moves tensors of the host.
    """
    own = {(piece.name, piece.offsets): piece for piece in pieces}
    held = _all_held(own.values(), ranks)
    for name in names:
        target: Tensor | None = None
        for one in held.get(name, ()):
            if ranks.rank == 0:
                target = torch.empty(one.global_shape, dtype=one.dtype) if target is None else target
                _place(target, one).copy_(_received(one, own, ranks))
            elif ranks.rank == one.rank:
                dist.send(own[name, one.offsets].tensor.cpu().contiguous(), 0, group=ranks.group)
        if target is not None:
            yield name, target


def _all_held(own: Iterable[Piece], ranks: Communicator) -> dict[str, list[_Held]]:
    """Each piece once, with the first rank that has it."""
    described = [
        _Held(
            rank=ranks.rank,
            name=piece.name,
            global_shape=piece.global_shape,
            offsets=piece.offsets,
            sizes=tuple(piece.tensor.shape),
            dtype=piece.tensor.dtype,
        )
        for piece in own
    ]
    found: list[list[_Held]] = [described] * ranks.size
    if ranks.size > 1:
        dist.all_gather_object(found, described, group=ranks.group)
    first: dict[tuple[str, tuple[int, ...]], _Held] = {}
    for one in (one for rank in found for one in rank):
        first.setdefault((one.name, one.offsets), one)
    by_name: dict[str, list[_Held]] = {}
    for one in first.values():
        by_name.setdefault(one.name, []).append(one)
    return by_name


def _received(one: _Held, own: dict[tuple[str, tuple[int, ...]], Piece], ranks: Communicator) -> Tensor:
    if one.rank == 0:
        return own[one.name, one.offsets].tensor
    buffer = torch.empty(one.sizes, dtype=one.dtype)
    dist.recv(buffer, one.rank, group=ranks.group)
    return buffer


def _place(target: Tensor, one: _Held) -> Tensor:
    for dim, (offset, size) in enumerate(zip(one.offsets, one.sizes, strict=True)):
        target = target.narrow(dim, offset, size)
    return target
