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
    found = _check(case, experts, case.tile, ())
    for rows in _parts(case):
        found += _check(case, experts, 1, rows)
    return found


def parts_of(rows: tuple[int, ...], device: torch.device) -> Parts:
    """Parts of so many rows."""
    return Parts(rows=rows, ends_N=torch.tensor(rows, device=device).cumsum(0).to(torch.int32))


def _parts(case: Case) -> Iterator[tuple[int, ...]]:
    """One, a few and as many parts as experts: without room, with too little for most, and with room for all."""
    for count in (1, 2, 4, case.local_experts):
        if case.local_experts % count == 0:
            even, slots = case.tokens * case.top_k // count, case.tokens * case.top_k
            yield (0,) * count
            yield tuple(even // 2 + number for number in range(count))
            yield (slots,) * count


def _check(case: Case, experts_TK: Tensor, tile: int, rows: tuple[int, ...]) -> list[Finding]:
    """`rows`: of each part; none: side by side."""
    name = f"{case.name}, {len(rows)} parts of {rows[0]} to {rows[-1]} rows" if rows else case.name
    here, first = case.local_experts, case.first
    parts = parts_of(rows, experts_TK.device) if rows else None
    found, alike = twice(
        "index", name, lambda: maps_of(index(experts_TK, here, first_expert=first, tile=tile, parts=parts))
    )
    on_host = parts_of(rows, torch.device("cpu")) if rows else None
    truth = maps_of(index_reference(experts_TK.cpu(), here, first, tile, on_host))
    names = ("slots", "places", "counts", "offsets")
    pairs = zip(names, found, truth, strict=True)
    return [alike, *(exact(f"index: {what}", name, holds=torch.equal(own.cpu(), true)) for what, own, true in pairs)]


def maps_of(rowmap: RowMap) -> tuple[Tensor, ...]:
    """The tensors of a map."""
    return rowmap.slots_P, rowmap.places_TK, rowmap.counts_E, rowmap.offsets_E
