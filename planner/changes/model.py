"""Keys of the model. Fields of layers change in every layer that has them; `planner.held.model` says what follows."""

from __future__ import annotations

from functools import partial
from typing import Any

from meshwright.planner.change import Change, Read, count, count_or_none, given, switch
from meshwright.planner.draft import Draft
from meshwright.planner.held.model import ATTENTION, DENSE, FFN, LAYER, MOE, NUM_LAYERS, WHOLE, value_of

SWITCHES = frozenset(
    {
        "qk_norm",
        "qkv_bias",
        "attention_output_bias",
        "attention_sinks",
        "shared_gate",
        "gated",
        "ffn_bias",
        "norm_bias",
        "tied_embeddings",
        "head_bias",
    }
)
OPTIONAL = frozenset(
    {
        "attention_window",
        "attention_chunk",
        "query_lora_rank",
        "kv_lora_rank",
        "rope_head_dim",
        "shared_intermediate",
        "learned_positions",
        "mtp_depth",
    }
)
"""Counts that may be 0."""


def _reader(name: str) -> Read:
    if name in SWITCHES:
        return switch
    return count_or_none if name in OPTIONAL else count


def _value(name: str, draft: Draft) -> Any:  # noqa: ANN401  what the field holds
    return value_of(draft.model, name)


MODEL_CHANGES: dict[str, Change] = {
    f"model.{name}": given(_reader(name), f"model.{name}", partial(_value, name))
    for name in (NUM_LAYERS, *WHOLE, *ATTENTION, *MOE, *DENSE, *FFN, *LAYER)
}
