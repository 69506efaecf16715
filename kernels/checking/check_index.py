"""Checks the maps: exactly the reference's."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.checking.cases import Case, random_logits
from meshwright.kernels.checking.finding import Finding, exact, twice
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.index.operator import index
from meshwright.kernels.index.reference import index_reference


def check_index(case: Case, device: torch.device, generator: torch.Generator) -> list[Finding]:
    """All findings of one case."""
    experts = random_logits(case, device, generator).topk(case.top_k).indices.to(torch.int32)
    found, alike = twice(
        "index",
        case.name,
        lambda: maps_of(index(experts, case.local_experts, first_expert=case.first, tile=case.tile)),
    )
    truth = maps_of(index_reference(experts.cpu(), case.local_experts, case.first, case.tile))
    names = ("slots", "places", "counts", "offsets")
    pairs = zip(names, found, truth, strict=True)
    right = [exact(f"index: {name}", case.name, holds=torch.equal(own.cpu(), true)) for name, own, true in pairs]
    return [alike, *right]


def maps_of(rowmap: RowMap) -> tuple[Tensor, ...]:
    """The tensors of a map."""
    return rowmap.slots_P, rowmap.places_TK, rowmap.counts_E, rowmap.offsets_E
