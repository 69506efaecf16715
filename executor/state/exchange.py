"""Gradients summed over the ranks that hold the same parameters.

What travels is chosen by the plan's runtime: gradients in the format of their sums, or in BF16 with every sum in FP32
(MegaScale-MoE, arXiv 2505.11432, section 5: an all-to-all, then a local sum; a ring would round at every hop).
"""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.collectives import (
    all_gather_rows,
    all_reduce_in_place,
    all_to_all_parts,
    reduce_scatter_rows,
)
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.state.flat import Holders


def reduce_to_shard(gradients: Tensor, holders: Holders, wire: torch.dtype) -> Tensor:
    """The sum of all copies' gradients of this rank's shard, from each one's whole buffer, which it may overwrite."""
    return _all_reduce(_reduce_scatter(gradients, holders.shards, wire), holders.replicas, wire)


def _reduce_scatter(gradients: Tensor, ranks: Communicator, wire: torch.dtype) -> Tensor:
    if ranks.size == 1:
        return gradients
    wide = statistics_type(gradients.dtype)
    if wire is wide:
        return reduce_scatter_rows(gradients.to(wide), ranks)
    return _summed(gradients, ranks, wire)


def _all_reduce(shard: Tensor, ranks: Communicator, wire: torch.dtype) -> Tensor:
    """The sum of the replicas' shards; in BF16 it is rounded once more, to travel back."""
    if ranks.size == 1:
        return shard
    wide = statistics_type(shard.dtype)
    if wire is wide:
        return all_reduce_in_place(shard.to(wide), ranks)
    return all_gather_rows(_summed(shard, ranks, wire).to(wire), ranks).to(wide)


def _summed(gradients: Tensor, ranks: Communicator, wire: torch.dtype) -> Tensor:
    parts = all_to_all_parts(gradients.to(wire).unflatten(0, (ranks.size, -1)), ranks)
    return parts.sum(0, dtype=statistics_type(gradients.dtype))
