"""Checks the maps: exactly the reference's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from meshwright.kernels.checking.cases import Case, random_logits
from meshwright.kernels.checking.finding import Finding, exact, twice
from meshwright.kernels.index.contract import Parts, RowMap
from meshwright.kernels.index.operator import index
from meshwright.kernels.index.reference import index_reference


def check_index(case: Case, device: torch.device, generator: torch.Generator) -> list[Finding]:
    """All findings of one case: side by side, and in parts."""
    experts = random_logits(case, device, generator).topk(case.top_k).indices.to(torch.int32)
    found = _check(case, experts, case.tile, None)
    for parts in _parts(case):
        found += _check(case, experts, 1, parts)
    return found


def _parts(case: Case) -> Iterator[Parts]:
    """One, a few and as many parts as experts: without room, with too little for most, and with room for all."""
    for count in (1, 2, 4, case.local_experts):
        if case.local_experts % count == 0:
            even = case.tokens * case.top_k // count
            yield from (Parts(count=count, rows=rows) for rows in (0, even // 2 + 1, case.tokens * case.top_k))


def _check(case: Case, experts_TK: Tensor, tile: int, parts: Parts | None) -> list[Finding]:
    name = case.name if parts is None else f"{case.name}, {parts.count} parts of {parts.rows} rows"
    here, first = case.local_experts, case.first
    found, alike = twice(
        "index", name, lambda: maps_of(index(experts_TK, here, first_expert=first, tile=tile, parts=parts))
    )
    truth = maps_of(index_reference(experts_TK.cpu(), here, first, tile, parts))
    names = ("slots", "places", "counts", "offsets")
    pairs = zip(names, found, truth, strict=True)
    return [alike, *(exact(f"index: {what}", name, holds=torch.equal(own.cpu(), true)) for what, own, true in pairs)]


def maps_of(rowmap: RowMap) -> tuple[Tensor, ...]:
    """The tensors of a map."""
    return rowmap.slots_P, rowmap.places_TK, rowmap.counts_E, rowmap.offsets_E
