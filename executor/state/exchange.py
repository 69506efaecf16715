"""Gradients summed over the ranks that hold the same parameters, and updated weights spread to them again.

What travels is chosen by the plan's runtime: gradients in the format of their sums, or in BF16 with every sum in FP32
(MegaScale-MoE, arXiv 2505.11432, section 5: an all-to-all, then a local sum; a ring would round at every hop).
"""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.collectives import (
    all_gather_into,
    all_gather_rows,
    all_reduce,
    all_to_all_parts,
    reduce_scatter_rows,
)
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.functions.sums import summed
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.state.flat import FlatParameters


def reduce_gradients(flat: FlatParameters, wire: torch.dtype) -> Tensor:
    """The gradient of this rank's shard, summed over micro-batches, copies and, where tied, both ends."""
    flat.finish_gradients()
    if flat.ends.size > 1:
        flat.gradients.copy_(all_reduce(flat.gradients, flat.ends))
    own = _reduce_scatter(flat.gradients, flat.copies, wire).to(flat.master.dtype)
    return own if flat.shards else all_gather_rows(own, flat.copies)


def _reduce_scatter(gradients: Tensor, copies: Communicator, wire: torch.dtype) -> Tensor:
    if copies.size == 1:
        return gradients
    wide = statistics_type(gradients.dtype)
    if wire is wide:
        return reduce_scatter_rows(gradients.to(wide), copies)
    parts = all_to_all_parts(gradients.to(wire).unflatten(0, (copies.size, -1)), copies)
    return summed(parts, wide)


def publish_weights(flat: FlatParameters) -> None:
    """Set the weights from the masters, in the training format, on all ranks that hold them."""
    flat.weights[flat.shard].copy_(flat.master)
    gather_weights(flat)


def gather_weights(flat: FlatParameters) -> None:
    """Spread every rank's shard of the weights to all ranks that hold them, each where it lies."""
    if flat.shards:
        all_gather_into(flat.weights, flat.weights[flat.shard], flat.copies)
