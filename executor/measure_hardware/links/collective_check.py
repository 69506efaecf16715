"""Whether a collective does what it should, on numbers that tell who sent them."""

from __future__ import annotations

import torch
import torch.distributed as dist

from meshwright.executor.measure_hardware.links.collective_calls import all_gather, reduce_scatter

ELEMENTS = 64


def collectives_are_right(group: dist.ProcessGroup, device: torch.device) -> str:
    """Which of the collectives went wrong, in words; empty: none."""
    size, place = group.size(), group.rank()
    own = torch.full((ELEMENTS,), float(place + 1), device=device)
    whole = torch.empty(ELEMENTS * size, device=device)
    all_gather(whole, own, group=group)
    expected = torch.arange(1, size + 1, device=device, dtype=whole.dtype).repeat_interleave(ELEMENTS)
    wrong = [] if torch.equal(whole, expected) else ["all-gather"]
    total = size * (size + 1) / 2
    part = torch.empty(ELEMENTS, device=device)
    reduce_scatter(part, torch.full((ELEMENTS * size,), float(place + 1), device=device), group=group)
    wrong += [] if bool((part == total).all()) else ["reduce-scatter"]
    dist.all_reduce(own, group=group)
    wrong += [] if bool((own == total).all()) else ["all-reduce"]
    exchanged = torch.empty(size * ELEMENTS, device=device)
    dist.all_to_all_single(exchanged, torch.full_like(exchanged, float(place + 1)), group=group)
    wrong += [] if torch.equal(exchanged, expected) else ["all-to-all"]
    return ", ".join(wrong)
