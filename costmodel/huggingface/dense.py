"""Dense families with rotary positions: Llama, Mistral, Qwen2, Qwen3, Phi-3, Nemotron, Hunyuan dense.

Defaults are those of the configuration classes in transformers 4.57.
"""

from __future__ import annotations

import msgspec

from meshwright.costmodel.huggingface.blocks import (
    FULL,
    SLIDING,
    decoder,
    dense_ffn,
    grouped_query_attention,
    layer_types,
    num_layers,
)
from meshwright.costmodel.huggingface.fields import ConfigFields
from meshwright.costmodel.model import AttentionSpec, LayerSpec, ModelSpec


def read_llama(fields: ConfigFields, name: str) -> ModelSpec:
    """Llama 1, 2, 3."""
    bias = fields.boolean("attention_bias", False)
    attention = grouped_query_attention(fields, qkv_bias=bias, output_bias=bias)
    layer = LayerSpec(attention=attention, ffn=dense_ffn(fields, bias=fields.boolean("mlp_bias", False)))
    return decoder(fields, name, [layer] * num_layers(fields))


def read_mistral(fields: ConfigFields, name: str) -> ModelSpec:
    """Mistral: a sliding window on every layer unless `sliding_window` is null."""
    attention = grouped_query_attention(fields, default_kv_heads=8)
    attention = msgspec.structs.replace(attention, window=fields.nullable_integer("sliding_window", 4096) or 0)
    layer = LayerSpec(attention=attention, ffn=dense_ffn(fields))
    return decoder(fields, name, [layer] * num_layers(fields))


def read_qwen2(fields: ConfigFields, name: str) -> ModelSpec:
    """Qwen2 and Qwen2.5: biases on query, key and value, none on the output projection."""
    attention = grouped_query_attention(fields, default_kv_heads=32, qkv_bias=True)
    return decoder(fields, name, _qwen_layers(fields, attention))


def read_qwen3(fields: ConfigFields, name: str) -> ModelSpec:
    """Qwen3: query and key normalised a head, no biases, head size 128 whatever the hidden size."""
    bias = fields.boolean("attention_bias", False)
    attention = grouped_query_attention(
        fields, default_kv_heads=32, default_head_dim=128, qk_norm=True, qkv_bias=bias, output_bias=bias
    )
    return decoder(fields, name, _qwen_layers(fields, attention))


def read_phi3(fields: ConfigFields, name: str) -> ModelSpec:
    """Phi-3 and Phi-4: a Llama without biases; its fused projections hold the same weights."""
    attention = grouped_query_attention(fields)
    attention = msgspec.structs.replace(attention, window=fields.nullable_integer("sliding_window", None) or 0)
    layer = LayerSpec(attention=attention, ffn=dense_ffn(fields))
    return decoder(fields, name, [layer] * num_layers(fields))


def read_nemotron(fields: ConfigFields, name: str) -> ModelSpec:
    """Nemotron-4: squared ReLU without a gate, LayerNorm with bias, half of each head rotated."""
    bias = fields.boolean("attention_bias", False)
    attention = grouped_query_attention(fields, qkv_bias=bias, output_bias=bias)
    ffn = dense_ffn(fields, gated=False, bias=fields.boolean("mlp_bias", False))
    layer = LayerSpec(attention=attention, ffn=ffn, norm_bias=True)
    return decoder(fields, name, [layer] * num_layers(fields))


def _qwen_layers(fields: ConfigFields, attention: AttentionSpec) -> list[LayerSpec]:
    ffn = dense_ffn(fields)
    windows = qwen_windows(fields, num_layers(fields))
    return [LayerSpec(attention=msgspec.structs.replace(attention, window=window), ffn=ffn) for window in windows]


def qwen_windows(fields: ConfigFields, count: int) -> tuple[int, ...]:
    """Sliding window of each Qwen layer: the first `max_window_layers` are full, and all are unless switched on."""
    window = switched_window(fields)
    first = fields.integer("max_window_layers", 28, minimum=0)
    pattern = [SLIDING if window and i >= first else FULL for i in range(count)]
    return tuple(window if kind == SLIDING else 0 for kind in layer_types(fields, pattern))


def switched_window(fields: ConfigFields) -> int:
    """Qwen's sliding window, 0 unless `use_sliding_window` is on."""
    window = fields.nullable_integer("sliding_window", 4096) or 0
    return window if fields.boolean("use_sliding_window", False) else 0
