"""A bounded capacity of experts: which choices of tokens are kept.

An expert takes at most ceil(c K S / E) tokens of each sequence, those that come first; choices beyond that are dropped,
and the token goes on with what its other experts and the residual give. A token's other weights stay as they are.
Sequences, not the tokens of a rank, are the groups of GShard (arXiv 2006.16668, section 2.2), so that all plans drop
the same. Experts with fewer tokens are not filled up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.executor.layer.sequence_counts import SequenceCounts, sequence_keys


def sequence_capacity(factor: float, moe: MoeFfnSpec, seq_len: int) -> int:
    """Tokens that an expert takes of a sequence.

    >>> sequence_capacity(1.25, MoeFfnSpec(num_experts=8, top_k=2, intermediate=1), 16)
    5
    """
    return min(seq_len, math.ceil(factor * moe.top_k * seq_len / moe.num_experts))


def within_capacity(experts_TK: Tensor, counts: SequenceCounts, capacity: int) -> Tensor:
    """Whether each choice is kept, (T, K). `experts_TK`: this rank's tokens; nothing waits for the device."""
    num_runs, micro_batch, num_experts = counts.before_PBE.shape
    keys = sequence_keys(experts_TK, num_experts, micro_batch, num_runs).flatten()
    ordered, slots = torch.sort(keys, stable=True)
    in_group = torch.arange(keys.numel(), device=keys.device) - torch.searchsorted(ordered, ordered)
    places = torch.empty_like(in_group).scatter_(0, slots, in_group)
    return (places + counts.before_PBE.flatten()[keys] < capacity).view_as(experts_TK)
