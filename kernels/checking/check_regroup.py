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
        for finding in _check(case, device, generator, sources, behind)
    ]


def _check(case: Case, device: torch.device, generator: torch.Generator, sources: int, behind: int) -> list[Finding]:
    name = f"{case.name}, {sources} ranks" + (f", {behind} rows go nowhere" if behind else "")
    counts = torch.stack([_random_counts(case, generator) for _ in range(sources)])
    num_rows = int(counts.sum()) + behind
    found, alike = twice("regroup", name, lambda: maps_of(regroup(counts.to(device), num_rows, tile=case.tile)))
    truth = maps_of(regroup_reference(counts, num_rows, case.tile))
    names = ("slots", "places", "counts", "offsets")
    pairs = zip(names, found, truth, strict=True)
    return [alike, *(exact(f"regroup: {what}", name, holds=torch.equal(own.cpu(), true)) for what, own, true in pairs)]


def _random_counts(case: Case, generator: torch.Generator) -> Tensor:
    """Rows of each expert here that a rank's tokens make, (E)."""
    experts = random_logits(case, torch.device("cpu"), generator).topk(case.top_k).indices.flatten() - case.first
    here = experts[(experts >= 0) & (experts < case.local_experts)]
    return torch.bincount(here, minlength=case.local_experts).to(torch.int32)
