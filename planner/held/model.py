"""A model with changed fields, and where the strategies of its layers come from.

A field of attention, experts or layers changes in every layer that has it. What follows: in MLA key-value heads are as
many as heads; values stay as wide as keys where they were. Nothing else does: more heads leave the hidden size.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import (
    AttentionSpec,
    DenseFfnSpec,
    LayerSpec,
    ModelSpec,
    MoeFfnSpec,
    with_num_layers,
)

ATTENTION = {
    "num_heads": "num_heads",
    "num_kv_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "value_head_dim": "value_head_dim",
    "attention_window": "window",
    "attention_chunk": "chunk",
    "query_lora_rank": "query_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "rope_head_dim": "rope_head_dim",
    "qk_norm": "qk_norm",
    "qkv_bias": "qkv_bias",
    "attention_output_bias": "output_bias",
    "attention_sinks": "sinks",
}
DENSE = {"dense_intermediate": "intermediate"}
MOE = {
    "num_experts": "num_experts",
    "top_k": "top_k",
    "expert_intermediate": "intermediate",
    "shared_intermediate": "shared_intermediate",
    "shared_gate": "shared_gate",
    "num_expert_groups": "num_expert_groups",
    "groups_per_token": "groups_per_token",
}
FFN = {"gated": "gated", "ffn_bias": "bias"}
LAYER = {"num_norms": "num_norms", "norm_bias": "norm_bias"}
WHOLE = {name: name for name in ("hidden", "vocab", "tied_embeddings", "head_bias", "learned_positions", "mtp_depth")}
"""Names of keys to names of fields."""

NUM_LAYERS = "num_layers"
MAX_PREFIX, MAX_PERIOD = 8, 12
NONE = "none"


def held_model(model: ModelSpec, given: Mapping[str, Any]) -> ModelSpec:
    """The model with the given fields (by the names of keys, without their section).

    Raises `StrategyError` for a field of layers that the model does not have, and `ModelError` for contradictions.
    """
    for names, part, words in _PARTS:
        if missing := next((name for name in given if name in names and not any(map(part, model.layer_types))), None):
            raise StrategyError("model", missing, f"{model.name} has no {words}")
    if NUM_LAYERS in given:
        model = resized(model, given[NUM_LAYERS])
    changed = {layer: _layer(layer, given) for layer in model.layer_types}
    fields = {field: given[name] for name, field in WHOLE.items() if name in given}
    return msgspec.structs.replace(model, layers=tuple(changed[layer] for layer in model.layers), **fields)


def value_of(model: ModelSpec, name: str) -> Any:  # noqa: ANN401  what a field holds
    """The value of a field by the name of its key; text that lists all of them where layers differ."""
    if name == NUM_LAYERS:
        return model.num_layers
    if name in WHOLE:
        return getattr(model, WHOLE[name])
    names, part, _ = next(entry for entry in _PARTS if name in entry[0])
    parts = [part(layer) for layer in model.layer_types]
    values = list(dict.fromkeys(getattr(found, names[name]) for found in parts if found is not None))
    if len(values) == 1:
        return values[0]
    return ", ".join(map(str, values)) or NONE


def resized(model: ModelSpec, num_layers: int) -> ModelSpec:
    """The model with its first layers, or with more that go on in the pattern of its stack.

    >>> from meshwright.costmodel.presets import load_model
    >>> resized(load_model("deepseek-v3"), 64).layer_runs[0][1], resized(load_model("deepseek-v3"), 64).layer_runs[1][1]
    (3, 61)
    """
    if num_layers <= model.num_layers:
        return with_num_layers(model, num_layers)
    layers, period = list(model.layers), _period(model)
    while len(layers) < num_layers:
        layers.append(layers[-period])
    return msgspec.structs.replace(model, layers=tuple(layers))


def sources(before: ModelSpec, after: ModelSpec) -> tuple[int, ...]:
    """For each layer of a resized model, the layer before whose strategy it takes.

    Of the layers of its kind, the one as far into the stack: what the first half did, the first half does.
    """
    places: dict[LayerSpec, list[int]] = defaultdict(list)
    for place, layer in enumerate(before.layers):
        places[layer].append(place)
    totals, seen = Counter(after.layers), Counter[LayerSpec]()
    found = []
    for layer in after.layers:
        own = places[layer]
        found.append(own[seen[layer] * len(own) // totals[layer]])
        seen[layer] += 1
    return tuple(found)


def _period(model: ModelSpec) -> int:
    """After how many layers the stack repeats, behind a few that may come first."""
    layers, number = model.layers, model.num_layers
    found = [
        (start + period, period)
        for start in range(min(MAX_PREFIX, number - 1) + 1)
        for period in range(1, min(MAX_PERIOD, (number - start) // 2) + 1)
        if all(layers[place] == layers[place - period] for place in range(start + period, number))
    ]
    if number == 1:
        return 1
    if not found:
        raise StrategyError("model", NUM_LAYERS, f"the {number} layers of {model.name} repeat no pattern to go on with")
    return min(found)[1]


def _layer(layer: LayerSpec, given: Mapping[str, Any]) -> LayerSpec:
    names = FFN | (MOE if layer.is_moe else DENSE)
    return msgspec.structs.replace(
        layer,
        attention=_attention(layer.attention, given),
        ffn=msgspec.structs.replace(layer.ffn, **_fields(names, given)),
        **_fields(LAYER, given),
    )


def _attention(attention: AttentionSpec, given: Mapping[str, Any]) -> AttentionSpec:
    fields = _fields(ATTENTION, given)
    if attention.is_mla and "num_heads" in fields:
        fields.setdefault("num_kv_heads", fields["num_heads"])
    if "head_dim" in fields and not attention.is_mla and attention.value_head_dim == attention.head_dim:
        fields.setdefault("value_head_dim", fields["head_dim"])
    return msgspec.structs.replace(attention, **fields)


def _fields(names: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    return {field: given[name] for name, field in names.items() if name in given}


def _dense(layer: LayerSpec) -> object:
    return layer.ffn if isinstance(layer.ffn, DenseFfnSpec) else None


def _moe(layer: LayerSpec) -> object:
    return layer.ffn if isinstance(layer.ffn, MoeFfnSpec) else None


_PARTS: tuple[tuple[dict[str, str], Callable[[LayerSpec], object], str], ...] = (
    (ATTENTION, lambda layer: layer.attention, "attention"),
    (DENSE, _dense, "dense feed-forward blocks"),
    (MOE, _moe, "experts: it is a dense model"),
    (FFN, lambda layer: layer.ffn, "feed-forward blocks"),
    (LAYER, lambda layer: layer, "layers"),
)
"""Names of keys, the part of a layer that has their fields (or None), and what to call it."""
