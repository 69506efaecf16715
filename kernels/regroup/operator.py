"""The maps by the CUDA kernel, or by the reference where that can't run."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.dispatch import dispatcher, launch
from meshwright.kernels.index.contract import RowMap, capacity
from meshwright.kernels.regroup.contract import OPERATION, check_regroup
from meshwright.kernels.regroup.launch import num_blocks, why_not
from meshwright.kernels.regroup.reference import regroup_reference


def regroup(counts_SE: Tensor, num_rows: int, *, tile: int = 1, in_parts: bool = False) -> RowMap:
    """Group rows that arrived source by source by expert. The host knows how many rows there are, not of which expert.

    `in_parts`: each source's rows stand at the begin of an equal part. One launch, nothing waits; every run gives the
    same maps.
    """
    check_regroup(counts_SE, num_rows, tile, in_parts=in_parts)
    experts = counts_SE.shape[1]
    rows = capacity(num_rows, experts, tile)
    if not dispatcher().runs_cuda(OPERATION, counts_SE, why_not(counts_SE.numel(), rows)):
        return regroup_reference(counts_SE, num_rows, tile, in_parts=in_parts)
    counts = counts_SE.to(torch.int32).contiguous()
    rowmap = RowMap(
        slots_P=counts.new_empty(rows),
        places_TK=counts.new_empty(num_rows, 1),
        counts_E=counts.new_empty(experts),
        offsets_E=counts.new_empty(experts),
        tile=tile,
    )
    launch(
        "regroup_rows",
        counts.device,
        counts,
        rowmap.slots_P,
        rowmap.places_TK,
        rowmap.counts_E,
        rowmap.offsets_E,
        tile,
        in_parts,
        num_blocks(rows),
    )
    return rowmap
