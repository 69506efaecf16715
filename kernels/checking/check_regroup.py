"""Checks the maps of rows that several ranks sent: exactly the reference's."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from meshwright.kernels.checking.cases import Case, random_logits
from meshwright.kernels.checking.check_index import maps_of
from meshwright.kernels.checking.finding import Finding, exact, twice
from meshwright.kernels.limits import MOST_SEGMENTS
from meshwright.kernels.regroup.operator import regroup
from meshwright.kernels.regroup.reference import regroup_reference

SOURCES: Final = (1, 2, 5)
ROWS_BEHIND: Final = (0, 1, 3000)
"""Rows that no count tells of; the last more than a block's."""


def check_regroup(case: Case, device: torch.device, generator: torch.Generator) -> list[Finding]:
    """All findings of one case, with rows of so many ranks; those that would not fit the kernel are fewer."""
    return [
        finding
        for sources in SOURCES
        if sources * case.local_experts <= MOST_SEGMENTS
        for behind in ROWS_BEHIND
        for in_parts in (False, True)
        for finding in _check(case, device, _random_counts(case, generator, sources), behind, in_parts=in_parts)
    ]


def _check(case: Case, device: torch.device, counts_SE: Tensor, behind: int, *, in_parts: bool) -> list[Finding]:
    sources, tile = len(counts_SE), case.tile
    name = f"{case.name}, {sources} ranks" + (f", {behind} rows go nowhere" if behind else "")
    num_rows = int(counts_SE.sum()) + behind
    if in_parts:
        name += ", in parts"
        num_rows = sources * (int(counts_SE.sum(1).max()) + behind)
    found, alike = twice(
        "regroup", name, lambda: maps_of(regroup(counts_SE.to(device), num_rows, tile=tile, in_parts=in_parts))
    )
    truth = maps_of(regroup_reference(counts_SE, num_rows, tile, in_parts=in_parts))
    names = ("slots", "places", "counts", "offsets")
    pairs = zip(names, found, truth, strict=True)
    return [alike, *(exact(f"regroup: {what}", name, holds=torch.equal(own.cpu(), true)) for what, own, true in pairs)]


def _random_counts(case: Case, generator: torch.Generator, num_ranks: int) -> Tensor:
    """Rows of each expert here that the tokens of every rank make, (S, E)."""
    return torch.stack([_counts_of_rank(case, generator) for _ in range(num_ranks)])


def _counts_of_rank(case: Case, generator: torch.Generator) -> Tensor:
    experts = random_logits(case, torch.device("cpu"), generator).topk(case.top_k).indices.flatten() - case.first
    here = experts[(experts >= 0) & (experts < case.local_experts)]
    return torch.bincount(here, minlength=case.local_experts).to(torch.int32)
