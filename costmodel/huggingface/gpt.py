"""GPT families: two-matrix feed-forward, LayerNorm, biases, learned positions: GPT-2/GPT-3, GPT-NeoX, MPT.

Defaults are those of the configuration classes in transformers 4.57. That class of MPT has no biases whatever
`no_bias` says; the original does what it says, and so does this reader.
"""

from __future__ import annotations

from meshwright.costmodel.huggingface.blocks import decoder, dense_ffn, grouped_query_attention, head_dim, num_layers
from meshwright.costmodel.huggingface.fields import ConfigFields
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec


def read_gpt2(fields: ConfigFields, name: str) -> ModelSpec:
    """GPT-2 and GPT-3: `n_inner` null means four times the hidden size."""
    hidden = fields.required_integer("n_embd")
    heads = fields.required_integer("n_head")
    layer = _biased_layer(heads, head_dim(fields, heads, hidden), fields.integer("n_inner", 4 * hidden), bias=True)
    return decoder(
        fields,
        name,
        [layer] * num_layers(fields, "n_layer"),
        tied_by_default=True,
        learned_positions=fields.integer("n_positions", 1024),
        hidden_name="n_embd",
    )


def read_gpt_neox(fields: ConfigFields, name: str) -> ModelSpec:
    """GPT-NeoX and Pythia: rotary positions, untied."""
    bias = fields.boolean("attention_bias", True)
    attention = grouped_query_attention(fields, qkv_bias=bias, output_bias=bias)
    layer = LayerSpec(attention=attention, ffn=dense_ffn(fields, gated=False, bias=True), norm_bias=True)
    return decoder(fields, name, [layer] * num_layers(fields))


def read_mpt(fields: ConfigFields, name: str) -> ModelSpec:
    """MPT: learned positions unless ALiBi or rotary ones replace them."""
    hidden, heads = fields.required_integer("d_model"), fields.required_integer("n_heads")
    width = hidden * fields.integer("expansion_ratio", 4, maximum=1_000)
    layer = _biased_layer(heads, head_dim(fields, heads, hidden), width, bias=not fields.boolean("no_bias", True))
    return decoder(
        fields,
        name,
        [layer] * num_layers(fields, "n_layers"),
        tied_by_default=True,
        learned_positions=_mpt_positions(fields),
        hidden_name="d_model",
    )


def _mpt_positions(fields: ConfigFields) -> int:
    attention = fields.section("attn_config") if fields.has("attn_config") else None
    replaced = attention is None or attention.boolean("alibi", True) or attention.boolean("rope", False)
    if replaced or not fields.boolean("learned_pos_emb", True):
        return 0
    return fields.integer("max_seq_len", 2048)


def _biased_layer(num_heads: int, size: int, intermediate: int, *, bias: bool) -> LayerSpec:
    """A layer with biases everywhere or nowhere."""
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=size,
        value_head_dim=size,
        qkv_bias=bias,
        output_bias=bias,
    )
    return LayerSpec(
        attention=attention,
        ffn=DenseFfnSpec(intermediate=intermediate, gated=False, bias=bias),
        norm_bias=bias,
    )
