"""Positions of a rank's tokens in the sequence, and their rotary tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.functions.rotary import rotary_tables
from meshwright.executor.layer.groups import LayerGroups


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryTables:
    """Cosine and sine of the tokens inside the tensor-parallel region, (T, 1, width / 2), and the negated sine."""

    cos: Tensor
    sin: Tensor
    reverse_sin: Tensor


def own_positions(seq_len: int, groups: LayerGroups, device: torch.device) -> Tensor:
    """Positions in the sequence of a rank's tokens inside the tensor-parallel region, in the order that it holds them.

    Context-parallel rank c of n has parts c and 2 n - 1 - c of 2 n (`attention_pieces`); its Ulysses ranks share these
    evenly, one behind the other.
    """
    context, sequence = groups.context, groups.sequence
    parts = torch.arange(seq_len, device=device).view(2 * context.size if context.size > 1 else 1, -1)
    own = parts[[context.rank, -1 - context.rank]] if context.size > 1 else parts
    return own.flatten().chunk(sequence.size)[sequence.rank]


def make_rotary_tables(layer: LayerContext) -> RotaryTables:
    """The tables of this rank's part of the sequence, every position once for each member of the batch."""
    setting, attention = layer.setting, layer.layer.attention
    positions = own_positions(setting.seq_len, layer.groups, layer.device)
    width = attention.rope_head_dim if attention.is_mla else attention.head_dim
    tokens = positions.repeat_interleave(setting.micro_batch)
    cos, sin = rotary_tables(tokens, width, layer.rope_theta, layer.dtype, layer.rope_scaling)
    return RotaryTables(cos=cos, sin=sin, reverse_sin=-sin)
