"""How often each sequence of a micro-batch chose each expert, whatever ranks its tokens are spread over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from meshwright.executor.layer.collectives import all_gather_rows
from meshwright.executor.layer.groups import Communicator


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceCounts:
    """Choices, int64: of whole sequences, (B, E), and of the tokens before each of this rank's P runs, (P, B, E).

    A run is what follows each other of a sequence: one a rank, two of equal length under context parallelism.
    """

    whole_BE: Tensor
    before_PBE: Tensor


def sequence_keys(experts_TK: Tensor, num_experts: int, micro_batch: int, num_runs: int) -> Tensor:
    """A number for each run, sequence and expert, (p B + b) E + e, (T, K): sequences lie side by side."""
    tokens = torch.arange(experts_TK.shape[0], device=experts_TK.device)
    members, runs = tokens % micro_batch, tokens * num_runs // max(1, experts_TK.shape[0])
    return (runs * micro_batch + members).unsqueeze(1) * num_experts + experts_TK


def count_by_sequence(
    experts_TK: Tensor, num_experts: int, micro_batch: int, replica: Communicator, context_size: int = 1
) -> SequenceCounts:
    """A collective of the ranks that share the micro-batch; no host waits for it. `context_size`: cp of them."""
    num_runs = 1 if context_size == 1 else 2
    keys = sequence_keys(experts_TK, num_experts, micro_batch, num_runs).flatten()
    own = torch.zeros(num_runs * micro_batch * num_experts, dtype=torch.int64, device=keys.device)
    own.scatter_add_(0, keys, torch.ones_like(keys))
    by_run = all_gather_rows(own, replica).view(-1, micro_batch, num_experts)
    earlier = _earlier_runs(replica.size, replica.rank, context_size, keys.device)
    before = (by_run.unsqueeze(0) * earlier.view(*earlier.shape, 1, 1)).sum(1)
    return SequenceCounts(whole_BE=by_run.sum(0), before_PBE=before)


@lru_cache(maxsize=16)
def _earlier_runs(num_ranks: int, rank: int, context_size: int, device: torch.device) -> Tensor:
    """1 for every run that lies before each of a rank's, (P, all runs), copied to the device once."""
    order = torch.tensor(order_of_runs(num_ranks, context_size))
    own = order.view(num_ranks, -1)[rank]
    return (order.unsqueeze(0) < own.unsqueeze(1)).to(device, torch.int64)


def order_of_runs(num_ranks: int, context_size: int) -> tuple[int, ...]:
    """The place in the sequence of every rank's runs, rank by rank.

    Of context-parallel rank c of n the tokens are parts c and 2 n - 1 - c of 2 n, which its ranks share in order.

    >>> order_of_runs(3, 1), order_of_runs(2, 2)
    ((0, 1, 2), (0, 3, 1, 2))
    >>> order_of_runs(4, 2)  # two ranks of either part
    (0, 1, 6, 7, 2, 3, 4, 5)
    """
    if context_size == 1:
        return tuple(range(num_ranks))
    sharing = num_ranks // context_size
    places: list[int] = []
    for rank in range(context_size):
        for part in (rank, 2 * context_size - 1 - rank):
            places += range(part * sharing, (part + 1) * sharing)
    return tuple(places)
