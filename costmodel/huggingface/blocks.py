"""Blocks that several families share: grouped-query attention, layer patterns, the whole stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshwright.costmodel.huggingface.fields import ConfigFields
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec

MAX_LAYERS: Final = 10_000
SLIDING: Final = "sliding_attention"
CHUNKED: Final = "chunked_attention"
FULL: Final = "full_attention"


def num_layers(fields: ConfigFields, name: str = "num_hidden_layers") -> int:
    """Decoder layers."""
    return fields.required_integer(name, maximum=MAX_LAYERS)


def head_dim(fields: ConfigFields, num_heads: int, hidden: int, name: str = "head_dim") -> int:
    """Size of one head: the field if there, else hidden / heads, which must then be whole."""
    if fields.has(name):
        return fields.required_integer(name)
    if hidden % num_heads:
        raise fields.error(name, f"missing, and {num_heads} heads do not divide a hidden size of {hidden}")
    return hidden // num_heads


def grouped_query_attention(
    fields: ConfigFields,
    *,
    default_kv_heads: int | None = None,
    default_head_dim: int | None = None,
    head_dim_name: str = "head_dim",
    qk_norm: bool = False,
    qkv_bias: bool = False,
    output_bias: bool = False,
    sinks: bool = False,
) -> AttentionSpec:
    """Attention with the field names most families use. Without a default, key/value heads equal query heads."""
    num_heads = fields.required_integer("num_attention_heads")
    num_kv_heads = fields.integer("num_key_value_heads", default_kv_heads or num_heads)
    check_divides(fields, "num_key_value_heads", num_kv_heads, num_heads, "num_attention_heads")
    if default_head_dim is not None and not fields.has(head_dim_name):
        size = default_head_dim
    else:
        size = head_dim(fields, num_heads, fields.required_integer("hidden_size"), head_dim_name)
    return AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=size,
        value_head_dim=size,
        qk_norm=qk_norm,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        sinks=sinks,
    )


def dense_ffn(fields: ConfigFields, *, gated: bool = True, bias: bool = False) -> DenseFfnSpec:
    """A dense block of width `intermediate_size`."""
    return DenseFfnSpec(intermediate=fields.required_integer("intermediate_size"), gated=gated, bias=bias)


def layer_types(fields: ConfigFields, default: Sequence[str]) -> tuple[str, ...]:
    """`layer_types` of the config, checked, or the family's own pattern."""
    kinds = fields.items("layer_types")
    if not kinds:
        return tuple(default)
    if len(kinds) != len(default):
        raise fields.error("layer_types", f"{len(kinds)} entries, expected one for each of {len(default)} layers")
    for i, kind in enumerate(kinds):
        if kind not in (FULL, SLIDING, CHUNKED):
            raise fields.error(f"layer_types[{i}]", f"{kind!r:.60}, expected {FULL}, {SLIDING} or {CHUNKED}")
    return tuple(str(kind) for kind in kinds)


def check_divides(fields: ConfigFields, name: str, divisor: int, number: int, number_name: str) -> None:
    """Raise unless `divisor` divides `number`."""
    if number % divisor:
        raise fields.error(name, f"{divisor}, expected a divisor of {number_name} {number}")


def decoder(
    fields: ConfigFields,
    name: str,
    layers: Sequence[LayerSpec],
    *,
    tied_by_default: bool = False,
    head_bias: bool = False,
    learned_positions: int = 0,
    mtp_depth: int = 0,
    hidden_name: str = "hidden_size",
) -> ModelSpec:
    """The model around its layers."""
    return ModelSpec(
        name=name,
        hidden=fields.required_integer(hidden_name),
        vocab=fields.required_integer("vocab_size"),
        layers=tuple(layers),
        tied_embeddings=fields.boolean("tie_word_embeddings", tied_by_default),
        head_bias=head_bias,
        learned_positions=learned_positions,
        mtp_depth=mtp_depth,
        source=fields.text("meshwright_source", fields.where),
    )
