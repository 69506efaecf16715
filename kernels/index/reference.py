"""The maps in plain PyTorch: the truth, on any device. Nothing waits for the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.kernels.index.contract import Parts, RowMap, capacity


def index_reference(
    experts_TK: Tensor, num_experts: int, first_expert: int, tile: int, parts: Parts | None = None
) -> RowMap:
    """A stable sort; experts that are not here sort behind all others."""
    local = experts_TK.flatten().to(torch.int64) - first_expert
    local = local.masked_fill((local < 0) | (local >= num_experts), num_experts)
    ordered, slots = torch.sort(local, stable=True)
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=local.device)
    counts.scatter_add_(0, local, torch.ones_like(local))
    padded = (counts + tile - 1) // tile * tile
    ends, limits = padded.cumsum(0), torch.full_like(counts, local.numel() * tile)
    if parts is not None:
        ends, limits = _in_parts(padded, num_experts, parts)
    shift = (ends - padded) - (counts.cumsum(0) - counts)
    rows = torch.arange(local.numel(), device=local.device) + shift.index_select(0, ordered)
    here = (ordered < num_experts) & (rows < limits.index_select(0, ordered))
    most = capacity(local.numel(), num_experts, tile) if parts is None else sum(parts.rows)
    slots_out = torch.full((most + 1,), -1, dtype=torch.int64, device=local.device)
    slots_out.scatter_(0, rows.where(here, most), slots)
    places = torch.empty_like(local).scatter_(0, slots, rows.where(here, -1))
    return RowMap(
        slots_P=slots_out.narrow(0, 0, most).to(torch.int32),
        places_TK=places.view_as(experts_TK).to(torch.int32),
        counts_E=counts.narrow(0, 0, num_experts).to(torch.int32),
        offsets_E=ends.minimum(limits).narrow(0, 0, num_experts).to(torch.int32),
        tile=tile,
    )


def _in_parts(counts: Tensor, num_experts: int, parts: Parts) -> tuple[Tensor, Tensor]:
    """Where experts' groups end if their parts had room for all, and where their parts end; 0 for experts elsewhere."""
    ends = counts[:num_experts].view(parts.count, -1).cumsum(1) + parts.begins_N.unsqueeze(1)
    limits = parts.ends_N.to(torch.int64).unsqueeze(1).expand_as(ends)
    return F.pad(ends.flatten(), (0, 1)), F.pad(limits.flatten(), (0, 1))
