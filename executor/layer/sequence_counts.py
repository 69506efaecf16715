"""How often each sequence of a micro-batch chose each expert, whatever ranks its tokens are spread over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.executor.layer.collectives import all_gather_rows
from meshwright.executor.layer.groups import Communicator


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceCounts:
    """Choices, int64, (B, E): of whole sequences, and of those tokens that lie before this rank's."""

    whole_BE: Tensor
    before_BE: Tensor


def sequence_keys(experts_TK: Tensor, num_experts: int, micro_batch: int) -> Tensor:
    """A number for each sequence and expert, b E + e, (T, K): the members of a micro-batch lie side by side."""
    members = torch.arange(experts_TK.shape[0], device=experts_TK.device) % micro_batch
    return members.unsqueeze(1) * num_experts + experts_TK


def count_by_sequence(experts_TK: Tensor, num_experts: int, micro_batch: int, replica: Communicator) -> SequenceCounts:
    """A collective of the ranks that share the micro-batch, in the order of its tokens; no host waits for it."""
    keys = sequence_keys(experts_TK, num_experts, micro_batch).flatten()
    own = torch.zeros(micro_batch * num_experts, dtype=torch.int64, device=keys.device)
    own.scatter_add_(0, keys, torch.ones_like(keys))
    by_rank = all_gather_rows(own, replica).view(replica.size, micro_batch, num_experts)
    return SequenceCounts(whole_BE=by_rank.sum(0), before_BE=by_rank[: replica.rank].sum(0))
