"""The maps in plain PyTorch: the truth, on any device. Nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.index.contract import RowMap, capacity


def index_reference(experts_TK: Tensor, num_experts: int, first_expert: int, tile: int) -> RowMap:
    """A stable sort; experts that are not here sort behind all others."""
    local = experts_TK.flatten().to(torch.int64) - first_expert
    local = local.masked_fill((local < 0) | (local >= num_experts), num_experts)
    ordered, slots = torch.sort(local, stable=True)
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=local.device)
    counts.scatter_add_(0, local, torch.ones_like(local))
    padded = (counts + tile - 1) // tile * tile
    shift = (padded.cumsum(0) - padded) - (counts.cumsum(0) - counts)
    rows = torch.arange(local.numel(), device=local.device) + shift.index_select(0, ordered)
    here, most = ordered < num_experts, capacity(local.numel(), num_experts, tile)
    slots_out = torch.full((most + 1,), -1, dtype=torch.int64, device=local.device)
    slots_out.scatter_(0, rows.where(here, most), slots)
    places = torch.empty_like(local).scatter_(0, slots, rows.where(here, -1))
    return RowMap(
        slots_P=slots_out.narrow(0, 0, most).to(torch.int32),
        places_TK=places.view_as(experts_TK).to(torch.int32),
        counts_E=counts.narrow(0, 0, num_experts).to(torch.int32),
        offsets_E=padded.cumsum(0).narrow(0, 0, num_experts).to(torch.int32),
        tile=tile,
    )
