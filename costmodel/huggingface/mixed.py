"""Families whose layers differ: Llama 4 (dense and sparse, chunked and full), Hunyuan (shared keys and values).

Llama 4's defaults are those of transformers 4.57; Hunyuan-Large's those of the class published with the model.
"""

from __future__ import annotations

import msgspec

from meshwright.costmodel.huggingface.blocks import (
    CHUNKED,
    FULL,
    decoder,
    dense_ffn,
    grouped_query_attention,
    layer_types,
    num_layers,
)
from meshwright.costmodel.huggingface.fields import LARGEST_SIZE, ConfigFields
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec, RouterScore


def read_llama4(fields: ConfigFields, name: str) -> ModelSpec:
    """Llama 4's language model; the vision tower of the full model is not part of it."""
    text = fields.section("text_config") if fields.has("text_config") else fields
    count = num_layers(text)
    sparse = _llama4_sparse_layers(text, count)
    experts, dense = _llama4_experts(text), _llama4_dense(text) if len(sparse) < count else None
    attentions = _llama4_attentions(text, count)
    layers = [
        LayerSpec(attention=attention, ffn=experts if dense is None or i in sparse else dense)
        for i, attention in enumerate(attentions)
    ]
    model = decoder(text, name, layers)
    return msgspec.structs.replace(model, source=fields.text("meshwright_source", fields.where))


def read_hunyuan(fields: ConfigFields, name: str) -> ModelSpec:
    """Hunyuan, dense (one expert or none) or sparse, as published with its own classes and as in transformers."""
    is_dense = not fields.has("num_experts") or _same_in_all_layers(fields, "num_experts") == 1
    ffn = dense_ffn(fields) if is_dense else _hunyuan_experts(fields)
    return decoder(fields, name, [LayerSpec(attention=attention, ffn=ffn) for attention in _hunyuan_attentions(fields)])


def _llama4_sparse_layers(fields: ConfigFields, count: int) -> frozenset[int]:
    """`moe_layers` if given, else every `interleave_moe_layer_step`-th layer."""
    if fields.has("moe_layers"):
        listed = fields.integer_items("moe_layers")
        return frozenset(i for i in listed if i < count)
    step = fields.integer("interleave_moe_layer_step", 1)
    return frozenset(range(step - 1, count, step))


def _llama4_experts(fields: ConfigFields) -> MoeFfnSpec:
    """One shared expert as wide as a routed one; the gate weight is a sigmoid of the chosen logit."""
    num_experts = fields.required_integer("num_local_experts")
    width = fields.required_integer("intermediate_size")
    return MoeFfnSpec(
        num_experts=num_experts,
        top_k=fields.required_integer("num_experts_per_tok", maximum=num_experts),
        intermediate=width,
        shared_intermediate=width,
        score=RouterScore.SIGMOID,
    )


def _llama4_dense(fields: ConfigFields) -> DenseFfnSpec:
    return DenseFfnSpec(intermediate=fields.required_integer("intermediate_size_mlp"))


def _llama4_attentions(fields: ConfigFields, count: int) -> list[AttentionSpec]:
    """Rotary layers attend within chunks and normalise query and key without weights; every n-th layer does neither."""
    bias = fields.boolean("attention_bias", False)
    plain = grouped_query_attention(fields, default_kv_heads=8, default_head_dim=128, qkv_bias=bias, output_bias=bias)
    interval = fields.integer("no_rope_layer_interval", 4)
    rotary = fields.integer_items("no_rope_layers") or tuple(int((i + 1) % interval != 0) for i in range(count))
    if len(rotary) != count:
        raise fields.error("no_rope_layers", f"{len(rotary)} entries, expected one for each of {count} layers")
    kinds = layer_types(fields, [CHUNKED if uses_rope else FULL for uses_rope in rotary])
    chunk = fields.nullable_integer("attention_chunk_size", 8192) or 0
    norm = fields.boolean("use_qk_norm", True)
    return [
        msgspec.structs.replace(
            plain, chunk=0 if kind == FULL else chunk, qk_norm=norm and uses_rope > 0, qk_norm_weights=False
        )
        for kind, uses_rope in zip(kinds, rotary, strict=True)
    ]


def _hunyuan_attentions(fields: ConfigFields) -> list[AttentionSpec]:
    """With `use_cla`, only every `cla_share_factor`-th layer has keys and values of its own."""
    bias = fields.boolean("attention_bias", False)
    own = grouped_query_attention(
        fields,
        head_dim_name="attention_head_dim" if fields.has("attention_head_dim") else "head_dim",
        qk_norm=fields.boolean("use_qk_norm", _is_in_transformers(fields)),
        qkv_bias=bias,
        output_bias=bias,
    )
    shared = msgspec.structs.replace(own, shares_key_value=True)
    factor = fields.integer("cla_share_factor", 1) if fields.boolean("use_cla", False) else 1
    return [shared if i % factor else own for i in range(num_layers(fields))]


def _hunyuan_experts(fields: ConfigFields) -> MoeFfnSpec:
    """Shared experts have the width `intermediate_size`, routed ones `moe_intermediate_size` where it is given."""
    num_experts = _same_in_all_layers(fields, "num_experts")
    routed_width = "moe_intermediate_size" if fields.has("moe_intermediate_size") else "intermediate_size"
    return MoeFfnSpec(
        num_experts=num_experts,
        top_k=_same_in_all_layers(fields, "moe_topk", maximum=num_experts),
        intermediate=_same_in_all_layers(fields, routed_width),
        shared_intermediate=_hunyuan_num_shared(fields) * fields.required_integer("intermediate_size"),
    )


def _hunyuan_num_shared(fields: ConfigFields) -> int:
    """The class in transformers always has one shared expert and always normalises query and key."""
    if not fields.boolean("use_mixed_mlp_moe", _is_in_transformers(fields)):
        return 0
    return _same_in_all_layers(fields, "num_shared_expert") if fields.has("num_shared_expert") else 1


def _is_in_transformers(fields: ConfigFields) -> bool:
    return fields.text("model_type", "") != "hunyuan"


def _same_in_all_layers(fields: ConfigFields, name: str, maximum: int = LARGEST_SIZE) -> int:
    """A field given once or as a list with one entry a layer, which must then be all the same."""
    if not fields.is_list(name):
        return fields.required_integer(name, maximum=maximum)
    values = set(fields.integer_items(name, minimum=1))
    if len(values) != 1 or max(values) > maximum:
        raise fields.error(name, f"{sorted(values)!r:.60}, expected one number of at most {maximum} for every layer")
    return values.pop()
