"""The maps in plain PyTorch: the truth, on any device. Nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.index.reference import index_reference


def regroup_reference(counts_SE: Tensor, num_rows: int, tile: int) -> RowMap:
    """The expert of every row, sorted stably: rows of an expert stay in the order of their sources."""
    sources, experts = counts_SE.shape
    numbers = torch.arange(experts, device=counts_SE.device, dtype=torch.int32).repeat(sources)
    of_rows = torch.repeat_interleave(numbers, counts_SE.flatten().to(torch.int64), output_size=num_rows)
    return index_reference(of_rows.unsqueeze(1), experts, 0, tile)
