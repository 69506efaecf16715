"""The maps by the CUDA kernel, or by the reference where that can't run."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.dispatch import dispatcher, launch
from meshwright.kernels.index.contract import OPERATION, Parts, RowMap, capacity, check_index
from meshwright.kernels.index.launch import chunks, why_not
from meshwright.kernels.index.reference import index_reference


def index(
    experts_TK: Tensor, num_experts: int, *, first_expert: int = 0, tile: int = 1, parts: Parts | None = None
) -> RowMap:
    """Sort slots by expert. Of all experts only [first_expert, first_expert + num_experts) are here.

    `parts` None: one group lies behind the other, and there is room for all. Two launches, nothing waits; every run
    gives the same maps.
    """
    check_index(experts_TK, num_experts, tile, parts)
    slots = experts_TK.numel()
    rows = capacity(slots, num_experts, tile) if parts is None else sum(parts.rows)
    if not dispatcher().runs_cuda(OPERATION, experts_TK, why_not(num_experts, rows)):
        return index_reference(experts_TK, num_experts, first_expert, tile, parts)
    experts = experts_TK.to(torch.int32).contiguous()
    cut = chunks(slots)
    rowmap = RowMap(
        slots_P=experts.new_empty(rows),
        places_TK=torch.empty_like(experts),
        counts_E=experts.new_empty(num_experts),
        offsets_E=experts.new_empty(num_experts),
        tile=tile,
    )
    launch(
        "index_rows",
        experts.device,
        experts,
        rowmap.slots_P,
        rowmap.places_TK,
        rowmap.counts_E,
        rowmap.offsets_E,
        experts.new_empty((cut.num_blocks, num_experts)),
        first_expert,
        tile,
        None if parts is None else parts.ends_N,
        cut.chunk,
    )
    return rowmap
