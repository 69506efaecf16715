"""Gradients summed over the ranks that hold the same parameters.

What travels is chosen by the plan's runtime: gradients in the format of their sums, or in BF16 with every sum in FP32
(MegaScale-MoE, arXiv 2505.11432, section 5: an all-to-all, then a local sum; a ring would round at every hop).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from meshwright.executor.layer.collectives import (
    all_gather_rows,
    all_reduce_in_place,
    all_to_all_parts,
    reduce_scatter_rows,
)
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.functions.sums import summed
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.state.flat import ALIGNMENT, Holders

ELEMENTS_AT_ONCE = 2**26
"""Elements of a buffer that one collective takes: copies in the format that travels are never larger."""


def reduce_to_shard(gradients: Tensor, holders: Holders, wire: torch.dtype) -> Tensor:
    """The sum of all copies' gradients of this rank's shard, from each one's whole buffer, which it may overwrite.

    Where the buffer has the format of the sums, the result is a view of it.
    """
    return _all_reduce(_reduce_scatter(gradients, holders.shards, wire), holders.replicas, wire)


def _reduce_scatter(gradients: Tensor, ranks: Communicator, wire: torch.dtype) -> Tensor:
    """The sum of the ranks' buffers where this rank's shard lies."""
    if ranks.size == 1:
        return gradients
    wide = statistics_type(gradients.dtype)
    shards = gradients.view(ranks.size, -1)
    own = shards[ranks.rank] if gradients.dtype is wide else shards.new_empty(shards.shape[1], dtype=wide)
    for place in _pieces(shards):
        own[place] = _summed(shards[:, place].to(wire), ranks)
    return own


def _all_reduce(shard: Tensor, ranks: Communicator, wire: torch.dtype) -> Tensor:
    """The sum of the replicas' shards; in BF16 it is rounded once more, to travel back."""
    if ranks.size == 1:
        return shard
    if wire is statistics_type(shard.dtype):
        return all_reduce_in_place(shard.to(wire), ranks)
    parts = shard.view(ranks.size, -1)
    for place in _pieces(parts):
        own = _summed(parts[:, place].to(wire), ranks)
        parts[:, place] = all_gather_rows(own.to(wire), ranks).view(ranks.size, -1)
    return shard


def _pieces(parts: Tensor) -> Iterator[slice]:
    """The columns of (ranks, elements) that travel at once."""
    step = max(1, ELEMENTS_AT_ONCE // len(parts) // ALIGNMENT) * ALIGNMENT
    for start in range(0, parts.shape[1], step):
        yield slice(start, min(start + step, parts.shape[1]))


def _summed(parts: Tensor, ranks: Communicator) -> Tensor:
    """Row r of the ranks' parts, added up on rank r in FP32 or wider."""
    wide = statistics_type(parts.dtype)
    if parts.dtype is wide:
        return reduce_scatter_rows(parts.flatten(), ranks)
    return summed(all_to_all_parts(parts, ranks), wide)
