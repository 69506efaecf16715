"""`torch.ops.meshwright.regroup`: the maps for torch.compile. Nothing in them is differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.index.contract import capacity
from meshwright.kernels.library_name import NAMESPACE
from meshwright.kernels.regroup.operator import regroup


@torch.library.custom_op(
    f"{NAMESPACE}::regroup",
    mutates_args=(),
    schema="(Tensor counts, SymInt num_rows, int tile) -> (Tensor, Tensor, Tensor, Tensor)",
)
def regroup_op(counts: Tensor, num_rows: int, tile: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slots of rows, places of slots, counts, offsets."""
    rowmap = regroup(counts, num_rows, tile=tile)
    return rowmap.slots_P, rowmap.places_TK, rowmap.counts_E, rowmap.offsets_E


@regroup_op.register_fake
def _fake(counts: Tensor, num_rows: int, tile: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    experts = counts.shape[1]
    return (
        counts.new_empty((capacity(num_rows, experts, tile),), dtype=torch.int32),
        counts.new_empty((num_rows, 1), dtype=torch.int32),
        counts.new_empty((experts,), dtype=torch.int32),
        counts.new_empty((experts,), dtype=torch.int32),
    )
