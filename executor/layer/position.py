"""Positions of a rank's tokens in the sequence, and their rotary tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.functions.rotary import rotary_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryTables:
    """Cosine and sine of the tokens inside the tensor-parallel region, (T, 1, width / 2), and the negated sine."""

    cos: Tensor
    sin: Tensor
    reverse_sin: Tensor


def make_rotary_tables(layer: LayerContext) -> RotaryTables:
    """The tables of this rank: its Ulysses part of the sequence, every position once for each member of the batch."""
    setting, ranks = layer.setting, layer.groups.sequence
    length = setting.seq_len // ranks.size
    positions = torch.arange(ranks.rank * length, (ranks.rank + 1) * length, device=layer.device)
    attention = layer.layer.attention
    width = attention.rope_head_dim if attention.is_mla else attention.head_dim
    tokens = positions.repeat_interleave(setting.micro_batch)
    cos, sin = rotary_tables(tokens, width, layer.rope_theta, layer.dtype, layer.rope_scaling)
    return RotaryTables(cos=cos, sin=sin, reverse_sin=-sin)
