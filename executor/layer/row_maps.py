"""What layouts of rows have in common, and what is known of them before anything is routed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from meshwright.kernels.index.contract import RowMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where rows go.

    offsets_E: ends of the rows of this rank's experts. roomy: which rows of their buffer are there, where it has room
    for more.
    """

    offsets_E: Tensor
    roomy: RowMap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangedLayout(Layout):
    """Where rows, or copies of tokens, go that ranks send each other.

    num_arrived: those that reach this rank. Where etp ranks share experts, what each has received is gathered in blocks
    of `block` rows, filled up.
    """

    num_arrived: int
    block: int


def first_rows(rowmap: RowMap, num_rows: int) -> RowMap:
    """The map without rows that are nobody's."""
    return replace(rowmap, slots_P=rowmap.slots_P[:num_rows])


@lru_cache(maxsize=8)
def balanced_experts(num_tokens: int, num_experts: int, top_k: int, device: torch.device) -> Tensor:
    """Experts in turn: choice k of token t is expert t + k (E // K), so that all have T K / E rows if E divides T."""
    tokens = torch.arange(num_tokens, device=device).unsqueeze(1)
    choices = torch.arange(top_k, device=device) * (num_experts // top_k)
    return (tokens + choices) % num_experts


@lru_cache(maxsize=8)
def balanced_counts(num_tokens: int, num_experts: int, top_k: int) -> tuple[int, ...]:
    """Rows of every expert under balanced routing, known to the host."""
    experts = balanced_experts(num_tokens, num_experts, top_k, torch.device("cpu"))
    return tuple(int(count) for count in torch.bincount(experts.flatten(), minlength=num_experts))
