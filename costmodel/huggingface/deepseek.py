"""DeepSeek families: shared experts, leading dense layers, latent attention, node-limited routing; Kimi-K2.

Field names and defaults are those of the configuration classes published with each model.
"""

from __future__ import annotations

from meshwright.costmodel.huggingface.blocks import (
    check_divides,
    decoder,
    dense_ffn,
    grouped_query_attention,
    num_layers,
)
from meshwright.costmodel.huggingface.fields import ConfigFields
from meshwright.costmodel.model import (
    AttentionSpec,
    LayerSpec,
    ModelSpec,
    MoeFfnSpec,
    RouterScore,
)


def read_deepseek_moe(fields: ConfigFields, name: str) -> ModelSpec:
    """DeepSeek-MoE (version 1): ordinary multi-head attention."""
    bias = fields.boolean("attention_bias", False)
    attention = grouped_query_attention(fields, qkv_bias=bias, output_bias=bias)
    return decoder(fields, name, _layers(fields, attention, _experts(fields, "softmax", grouped=False)))


def read_deepseek_v2(fields: ConfigFields, name: str) -> ModelSpec:
    """DeepSeek-V2: latent attention; groups of experts limit routing only in `group_limited_greedy`."""
    grouped = fields.text("topk_method", "greedy") == "group_limited_greedy"
    return decoder(fields, name, _layers(fields, _latent_attention(fields), _experts(fields, "softmax", grouped)))


def read_deepseek_v3(fields: ConfigFields, name: str) -> ModelSpec:
    """DeepSeek-V3, R1, Kimi-K2: sigmoid scores with a correction bias, multi-token prediction."""
    layers = _layers(fields, _latent_attention(fields), _experts(fields, "sigmoid", grouped=True))
    return decoder(fields, name, layers, mtp_depth=fields.integer("num_nextn_predict_layers", 0, minimum=0, maximum=64))


def _latent_attention(fields: ConfigFields) -> AttentionSpec:
    heads = fields.required_integer("num_attention_heads")
    rope = fields.required_integer("qk_rope_head_dim")
    bias = fields.boolean("attention_bias", False)
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=fields.required_integer("qk_nope_head_dim") + rope,
        value_head_dim=fields.required_integer("v_head_dim"),
        query_lora_rank=fields.nullable_integer("q_lora_rank", 1536) or 0,
        kv_lora_rank=fields.required_integer("kv_lora_rank"),
        rope_head_dim=rope,
        qkv_bias=bias,
        output_bias=bias,
    )


def _experts(fields: ConfigFields, score: str, grouped: bool) -> MoeFfnSpec:
    num_experts = fields.required_integer("n_routed_experts")
    top_k = fields.required_integer("num_experts_per_tok", maximum=num_experts)
    groups = fields.integer("n_group", 1) if grouped else 1
    check_divides(fields, "n_group", groups, num_experts, "n_routed_experts")
    width = fields.required_integer("moe_intermediate_size")
    gate = RouterScore(score)
    return MoeFfnSpec(
        num_experts=num_experts,
        top_k=top_k,
        intermediate=width,
        shared_intermediate=width * fields.integer("n_shared_experts", 0, minimum=0),
        score=gate,
        score_correction_bias=gate is RouterScore.SIGMOID,
        num_expert_groups=groups,
        groups_per_token=fields.integer("topk_group", 1, maximum=groups) if grouped else 1,
    )


def _layers(fields: ConfigFields, attention: AttentionSpec, experts: MoeFfnSpec) -> list[LayerSpec]:
    """Dense up to `first_k_dense_replace`, then experts wherever `moe_layer_freq` divides the layer's index."""
    count = num_layers(fields)
    first = fields.integer("first_k_dense_replace", 0, minimum=0)
    every = fields.integer("moe_layer_freq", 1)
    sparse = [i >= first and i % every == 0 for i in range(count)]
    expert_layer = LayerSpec(attention=attention, ffn=experts)
    if all(sparse):
        return [expert_layer] * count
    dense_layer = LayerSpec(attention=attention, ffn=dense_ffn(fields))
    return [expert_layer if is_sparse else dense_layer for is_sparse in sparse]
