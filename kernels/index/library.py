"""`torch.ops.meshwright.index`: the maps for torch.compile. Nothing in them is differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.index.contract import RowMap, capacity
from meshwright.kernels.index.operator import index
from meshwright.kernels.library_name import NAMESPACE


@torch.library.custom_op(
    f"{NAMESPACE}::index",
    mutates_args=(),
    schema="(Tensor experts, int num_experts, int first_expert, int tile) -> (Tensor, Tensor, Tensor, Tensor)",
)
def index_op(experts: Tensor, num_experts: int, first_expert: int, tile: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slots of rows, places of slots, counts, offsets."""
    rowmap = index(experts, num_experts, first_expert=first_expert, tile=tile)
    return rowmap.slots_P, rowmap.places_TK, rowmap.counts_E, rowmap.offsets_E


@index_op.register_fake
def _fake(experts: Tensor, num_experts: int, first_expert: int, tile: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ARG001
    rows = capacity(experts.numel(), num_experts, tile)
    return (
        experts.new_empty((rows,), dtype=torch.int32),
        experts.new_empty(experts.shape, dtype=torch.int32),
        experts.new_empty((num_experts,), dtype=torch.int32),
        experts.new_empty((num_experts,), dtype=torch.int32),
    )


def row_map(slots: Tensor, places: Tensor, counts: Tensor, offsets: Tensor, tile: int) -> RowMap:
    """The map of an operator's arguments."""
    return RowMap(slots_P=slots, places_TK=places, counts_E=counts, offsets_E=offsets, tile=tile)
