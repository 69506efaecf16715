"""Mixture-of-experts families with ordinary attention: Mixtral, Qwen-MoE, Phi-3.5-MoE, GPT-OSS, Grok-1, DBRX.

Defaults are those of the configuration classes in transformers 4.57.
"""

from __future__ import annotations

import msgspec

from meshwright.costmodel.huggingface.blocks import (
    FULL,
    SLIDING,
    check_divides,
    decoder,
    dense_ffn,
    grouped_query_attention,
    head_dim,
    layer_types,
    num_layers,
)
from meshwright.costmodel.huggingface.dense import qwen_windows, switched_window
from meshwright.costmodel.huggingface.fields import ConfigFields
from meshwright.costmodel.model import AttentionSpec, LayerSpec, ModelSpec, MoeFfnSpec


def read_mixtral(fields: ConfigFields, name: str) -> ModelSpec:
    """Mixtral: every layer sparse."""
    attention = grouped_query_attention(fields, default_kv_heads=8)
    attention = msgspec.structs.replace(attention, window=fields.nullable_integer("sliding_window", None) or 0)
    layer = LayerSpec(attention=attention, ffn=_local_experts(fields))
    return decoder(fields, name, [layer] * num_layers(fields))


def read_qwen2_moe(fields: ConfigFields, name: str) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-MoE: one wide shared expert behind a sigmoid gate."""
    attention = grouped_query_attention(fields, default_kv_heads=16, qkv_bias=fields.boolean("qkv_bias", True))
    shared = fields.required_integer("shared_expert_intermediate_size", minimum=0)
    experts = msgspec.structs.replace(_qwen_experts(fields), shared_intermediate=shared, shared_gate=shared > 0)
    return decoder(fields, name, _qwen_layers(fields, attention, experts, qwen_windows(fields, num_layers(fields))))


def read_qwen3_moe(fields: ConfigFields, name: str) -> ModelSpec:
    """Qwen3-MoE: no shared expert, query and key normalised a head; the window, if on, is on every layer."""
    bias = fields.boolean("attention_bias", False)
    attention = grouped_query_attention(fields, default_kv_heads=4, qk_norm=True, qkv_bias=bias, output_bias=bias)
    windows = (switched_window(fields),) * num_layers(fields)
    return decoder(fields, name, _qwen_layers(fields, attention, _qwen_experts(fields), windows))


def read_phimoe(fields: ConfigFields, name: str) -> ModelSpec:
    """Phi-3.5-MoE: LayerNorm with bias, biases in attention and head where switched on."""
    bias = fields.boolean("attention_bias", False)
    attention = grouped_query_attention(fields, default_kv_heads=8, qkv_bias=bias, output_bias=bias)
    attention = msgspec.structs.replace(attention, window=fields.nullable_integer("sliding_window", None) or 0)
    layer = LayerSpec(attention=attention, ffn=_local_experts(fields), norm_bias=True)
    return decoder(fields, name, [layer] * num_layers(fields), head_bias=fields.boolean("lm_head_bias", False))


def read_gpt_oss(fields: ConfigFields, name: str) -> ModelSpec:
    """GPT-OSS: biases everywhere, attention sinks, windows on every other layer beginning with the first."""
    full = grouped_query_attention(
        fields, default_kv_heads=8, default_head_dim=64, qkv_bias=True, output_bias=True, sinks=True
    )
    sliding = msgspec.structs.replace(full, window=fields.nullable_integer("sliding_window", 128) or 0)
    experts = msgspec.structs.replace(_local_experts(fields), bias=True, router_bias=True)
    kinds = layer_types(fields, [(SLIDING, FULL)[i % 2] for i in range(num_layers(fields))])
    layers = [LayerSpec(attention=sliding if kind == SLIDING else full, ffn=experts) for kind in kinds]
    return decoder(fields, name, layers)


def read_grok1(fields: ConfigFields, name: str) -> ModelSpec:
    """Grok-1: four norms a layer (before and after attention and experts), tied embeddings; two ports exist."""
    experts = _experts(fields, _count_name(fields), "intermediate_size")
    layer = LayerSpec(attention=grouped_query_attention(fields), ffn=experts, num_norms=4)
    return decoder(fields, name, [layer] * num_layers(fields), tied_by_default=True)


def read_dbrx(fields: ConfigFields, name: str) -> ModelSpec:
    """DBRX: sizes in `attn_config` and `ffn_config`, LayerNorm without bias."""
    heads, hidden = fields.required_integer("n_heads"), fields.required_integer("d_model")
    attention_fields, ffn = fields.section("attn_config"), fields.section("ffn_config")
    kv_heads = attention_fields.required_integer("kv_n_heads")
    check_divides(attention_fields, "kv_n_heads", kv_heads, heads, "n_heads")
    size = head_dim(fields, heads, hidden)
    attention = AttentionSpec(num_heads=heads, num_kv_heads=kv_heads, head_dim=size, value_head_dim=size)
    num_experts = ffn.required_integer("moe_num_experts")
    experts = MoeFfnSpec(
        num_experts=num_experts,
        top_k=ffn.required_integer("moe_top_k", maximum=num_experts),
        intermediate=ffn.required_integer("ffn_hidden_size"),
    )
    layers = [LayerSpec(attention=attention, ffn=experts)] * num_layers(fields, "n_layers")
    return decoder(fields, name, layers, hidden_name="d_model")


def _local_experts(fields: ConfigFields) -> MoeFfnSpec:
    return _experts(fields, "num_local_experts", "intermediate_size")


def _experts(fields: ConfigFields, count_name: str, width_name: str) -> MoeFfnSpec:
    num_experts = fields.required_integer(count_name)
    return MoeFfnSpec(
        num_experts=num_experts,
        top_k=fields.required_integer("num_experts_per_tok", maximum=num_experts),
        intermediate=fields.required_integer(width_name),
    )


def _qwen_experts(fields: ConfigFields) -> MoeFfnSpec:
    return _experts(fields, _count_name(fields), "moe_intermediate_size")


def _count_name(fields: ConfigFields) -> str:
    """The published name, or the one under which transformers 5 writes what it has read."""
    has_other = fields.has("num_local_experts") and not fields.has("num_experts")
    return "num_local_experts" if has_other else "num_experts"


def _qwen_layers(
    fields: ConfigFields, attention: AttentionSpec, experts: MoeFfnSpec, windows: tuple[int, ...]
) -> list[LayerSpec]:
    """Experts on every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name."""
    step = fields.integer("decoder_sparse_step", 1)
    only_dense = frozenset(fields.integer_items("mlp_only_layers"))
    sparse = [i not in only_dense and (i + 1) % step == 0 for i in range(len(windows))]
    dense = experts if all(sparse) else dense_ffn(fields)
    return [
        LayerSpec(attention=msgspec.structs.replace(attention, window=window), ffn=experts if is_sparse else dense)
        for is_sparse, window in zip(sparse, windows, strict=True)
    ]
