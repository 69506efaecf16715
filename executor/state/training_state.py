"""A rank's part of all that training goes on from: master weights, moments of AdamW, biases that balance experts.

Weights in the training format are the masters, rounded; so they are not saved.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from meshwright.executor.checkpoint.cut_pieces import flat_pieces
from meshwright.executor.checkpoint.pieces import Piece, ShardedState, whole
from meshwright.executor.model.build import RankModel
from meshwright.executor.state.flat import FlatParameters
from meshwright.executor.state.optimizer import Optimizer


def training_state(model: RankModel, optimizer: Optimizer) -> ShardedState:
    """Views of a rank's shards as rectangles of whole parameters: loading fills them in place."""
    return ShardedState(_pieces(model, optimizer))


def _pieces(model: RankModel, optimizer: Optimizer) -> Iterator[Piece]:
    for flat in model.flats:
        moments = optimizer.moments(flat)
        for kind, tensor in {"master": flat.master, **moments}.items():
            yield from shard_pieces(f"{kind}.", flat, tensor)
    for name, tensor in model.constants.items():
        yield whole(f"constant.{name}", tensor)


def shard_pieces(prefix: str, flat: FlatParameters, shard: Tensor) -> Iterator[Piece]:
    """What a rank's shard of a buffer has of each parameter; `prefix` is put before their names."""
    for one, start, place in flat.segments():
        yield from flat_pieces(
            f"{prefix}{one.name}",
            one.spec,
            one.groups,
            shard[place],
            start=start,
            part_shape=tuple(one.shape),
        )
