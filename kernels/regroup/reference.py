"""The maps in plain PyTorch: the truth, on any device. Nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.index.reference import index_reference


def regroup_reference(counts_SE: Tensor, num_rows: int, tile: int, *, in_parts: bool = False) -> RowMap:
    """The expert of every row, sorted stably: rows of an expert stay in the order of their sources."""
    experts, counts = counts_SE.shape[1], counts_SE.to(torch.int64)
    if in_parts:  # what fills a part up is another expert's, which is nowhere
        counts = torch.cat((counts, num_rows // counts.shape[0] - counts.sum(1, keepdim=True)), 1)
    ends = counts.flatten().cumsum(0)
    rows = torch.arange(num_rows, device=counts_SE.device)
    of_rows = torch.searchsorted(ends, rows, right=True) % counts.shape[1]
    of_rows = of_rows.masked_fill(rows >= ends[-1], -1)
    return index_reference(of_rows.unsqueeze(1), experts, 0, tile)
