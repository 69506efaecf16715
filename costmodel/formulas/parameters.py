"""How many parameters a model has: exact whole numbers, split the way memory and communication need them.

Symbols: h hidden size, a query heads, g key/value heads, d head size, v value head size, E experts, f expert width,
V vocabulary. Buffers that no gradient reaches (rotary tables) are not parameters; DeepSeek-V3's score correction bias
is stored with the weights and counted, as in the published totals.
"""

from __future__ import annotations

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.value import Value


class LayerParameters(Value, frozen=True, kw_only=True):
    """Parameters of one decoder layer by part. A dense layer has none in router and experts, a sparse none in dense."""

    attention: int
    norms: int
    dense_ffn: int = 0
    router: int = 0
    shared_experts: int = 0
    routed_experts: int = 0

    @property
    def total(self) -> int:
        """All of the layer."""
        return self.replicated + self.routed_experts

    @property
    def replicated(self) -> int:
        """All but the routed experts: what expert parallelism does not divide."""
        return self.attention + self.norms + self.dense_ffn + self.router + self.shared_experts


def attention_parameters(attention: AttentionSpec, hidden: int) -> int:
    """Weights, biases, inner norms and sinks of one attention block.

    Equation: matrices + q/k/v biases + output bias h + qk norms 2d + latent norms + a sinks.
    Source: transformers 4.57, modeling_llama, modeling_qwen3, modeling_gpt_oss, modeling_deepseek_v3.

    >>> llama_8b = AttentionSpec(num_heads=32, num_kv_heads=8, head_dim=128, value_head_dim=128)
    >>> attention_parameters(llama_8b, 4096)  # 2 * 4096*4096 + 2 * 4096*1024
    41943040
    """
    output_bias = hidden if attention.output_bias else 0
    sinks = attention.num_heads if attention.sinks else 0
    return (
        attention_matrix_parameters(attention, hidden)
        + _qkv_bias_parameters(attention)
        + output_bias
        + _attention_norm_parameters(attention)
        + sinks
    )


def attention_matrix_parameters(attention: AttentionSpec, hidden: int) -> int:
    """Elements of the projection matrices of one attention block: what a token is multiplied with.

    Equation: grouped-query h a d + h g (d + v) + a v h, without the middle term where keys and values are shared
    with the layer before; latent (MLA) h q + q a d + h (c + r) + c a (d - r + v) + a v h, with the first two terms
    h a d where there is no query latent q; c is the key/value latent and r the rotary part of a head.
    Source: Llama 2 (arXiv 2307.09288) section 2.2; DeepSeek-V2 (arXiv 2405.04434) equations 37 to 47.

    >>> v2_lite = AttentionSpec(
    ...     num_heads=16, num_kv_heads=16, head_dim=192, value_head_dim=128, kv_lora_rank=512, rope_head_dim=64
    ... )
    >>> attention_matrix_parameters(v2_lite, 2048)  # 6291456 + 1179648 + 2097152 + 4194304
    13762560
    """
    output = attention.output_width * hidden
    return _query_parameters(attention, hidden) + _key_value_parameters(attention, hidden) + output


def ffn_parameters(hidden: int, intermediate: int, gated: bool, bias: bool) -> int:
    """One feed-forward block: a dense one, one expert, or all shared experts side by side.

    Equation: 3 h f with a gate (SwiGLU), 2 h f without; biases 2 f + h or f + h.
    Source: GLU Variants (arXiv 2002.05202) section 2.

    >>> ffn_parameters(4096, 14336, gated=True, bias=False)
    176160768
    """
    columns = 2 * intermediate if gated else intermediate
    return hidden * (columns + intermediate) + (columns + hidden if bias else 0)


def dense_ffn_parameters(ffn: DenseFfnSpec, hidden: int) -> int:
    """A dense feed-forward block.

    Equation: as `ffn_parameters`.
    Source: GLU Variants (arXiv 2002.05202) section 2.

    >>> dense_ffn_parameters(DenseFfnSpec(intermediate=3072, gated=False, bias=True), 768)  # GPT-2
    4722432
    """
    return ffn_parameters(hidden, ffn.intermediate, ffn.gated, ffn.bias)


def expert_parameters(moe: MoeFfnSpec, hidden: int) -> int:
    """One routed expert.

    Equation: as `ffn_parameters` with the expert's width.
    Source: Mixtral (arXiv 2401.04088) section 2.1.

    >>> expert_parameters(MoeFfnSpec(num_experts=8, top_k=2, intermediate=14336), 4096)
    176160768
    """
    return ffn_parameters(hidden, moe.intermediate, moe.gated, moe.bias)


def shared_expert_parameters(moe: MoeFfnSpec, hidden: int) -> int:
    """All shared experts of a layer and, in Qwen2-MoE, their gate.

    Equation: 3 h f_shared with a gated unit (2 h f_shared without), + h for the sigmoid gate.
    Source: DeepSeekMoE (arXiv 2401.06066) section 3.2; transformers 4.57, modeling_qwen2_moe.

    >>> shared_expert_parameters(MoeFfnSpec(num_experts=64, top_k=6, intermediate=1408, shared_intermediate=2816), 2048)
    17301504
    """
    if not moe.shared_intermediate:
        return 0
    gate = hidden if moe.shared_gate else 0
    return ffn_parameters(hidden, moe.shared_intermediate, moe.gated, moe.bias) + gate


def router_parameters(moe: MoeFfnSpec, hidden: int) -> int:
    """The router of one layer.

    Equation: h E, + E for a bias on the logits, + E for a score correction bias.
    Source: Mixtral (arXiv 2401.04088) section 2.1; DeepSeek-V3 (arXiv 2412.19437) equation 16.

    >>> router_parameters(MoeFfnSpec(num_experts=256, top_k=8, intermediate=2048, score_correction_bias=True), 7168)
    1835264
    """
    biases = int(moe.router_bias) + int(moe.score_correction_bias)
    return moe.num_experts * (hidden + biases)


def norm_parameters(hidden: int, num_norms: int, bias: bool) -> int:
    """Norms as wide as the hidden vector.

    Equation: n h, twice that for LayerNorm with a bias.
    Source: RMSNorm (arXiv 1910.07467) equation 4.

    >>> norm_parameters(4096, num_norms=2, bias=False)
    8192
    """
    return num_norms * hidden * (2 if bias else 1)


def layer_parameters(layer: LayerSpec, hidden: int) -> LayerParameters:
    """One decoder layer by part.

    Equation: attention + norms + (dense block, or router + shared experts + E experts).
    Source: the functions summed.

    >>> attention = AttentionSpec(num_heads=32, num_kv_heads=8, head_dim=128, value_head_dim=128)
    >>> moe = MoeFfnSpec(num_experts=8, top_k=2, intermediate=14336)
    >>> layer_parameters(LayerSpec(attention=attention, ffn=moe), 4096).total  # Mixtral-8x7B
    1451270144
    """
    attention = attention_parameters(layer.attention, hidden)
    norms = norm_parameters(hidden, layer.num_norms, layer.norm_bias)
    ffn = layer.ffn
    if isinstance(ffn, DenseFfnSpec):
        return LayerParameters(attention=attention, norms=norms, dense_ffn=dense_ffn_parameters(ffn, hidden))
    return LayerParameters(
        attention=attention,
        norms=norms,
        router=router_parameters(ffn, hidden),
        shared_experts=shared_expert_parameters(ffn, hidden),
        routed_experts=ffn.num_experts * expert_parameters(ffn, hidden),
    )


def active_layer_parameters(layer: LayerSpec, hidden: int) -> int:
    """Parameters of one layer that one token meets: k of the E experts, and all the rest.

    Equation: layer - (E - k) expert.
    Source: Mixtral (arXiv 2401.04088) section 2.1, the active parameter count.

    >>> attention = AttentionSpec(num_heads=32, num_kv_heads=8, head_dim=128, value_head_dim=128)
    >>> moe = MoeFfnSpec(num_experts=8, top_k=2, intermediate=14336)
    >>> active_layer_parameters(LayerSpec(attention=attention, ffn=moe), 4096)
    394305536
    """
    total = layer_parameters(layer, hidden).total
    if isinstance(layer.ffn, DenseFfnSpec):
        return total
    return total - (layer.ffn.num_experts - layer.ffn.top_k) * expert_parameters(layer.ffn, hidden)


def embedding_parameters(model: ModelSpec) -> int:
    """Token embedding and learned positions.

    Equation: V h + P h.
    Source: GPT-2; transformers 4.57, modeling_gpt2.

    >>> from meshwright.costmodel.presets import load_model
    >>> embedding_parameters(load_model("llama-3.1-8b"))  # 128256 * 4096
    525336576
    """
    return (model.vocab + model.learned_positions) * model.hidden


def head_parameters(model: ModelSpec) -> int:
    """What the output head has of its own.

    Equation: V h, 0 where it is tied to the embedding; + V for a bias.
    Source: transformers 4.57, modeling_llama, modeling_phimoe.

    >>> from meshwright.costmodel.presets import load_model
    >>> head_parameters(load_model("phi-3.5-moe"))  # 32064 * 4096 + 32064
    131366208
    """
    matrix = 0 if model.tied_embeddings else model.vocab * model.hidden
    return matrix + (model.vocab if model.head_bias else 0)


def final_norm_parameters(model: ModelSpec) -> int:
    """The norm before the head, of the last layer's kind.

    Equation: h, 2h with a bias.
    Source: RMSNorm (arXiv 1910.07467) equation 4.

    >>> from meshwright.costmodel.presets import load_model
    >>> final_norm_parameters(load_model("llama-3.1-8b"))
    4096
    """
    return norm_parameters(model.hidden, 1, model.layers[-1].norm_bias)


def mtp_parameters(model: ModelSpec) -> int:
    """All multi-token-prediction modules; embedding and head are the main model's own.

    Equation: D (last layer + 2 h h + 3 h).
    Source: DeepSeek-V3 (arXiv 2412.19437) section 2.2. Its model card says 14B: with copies of both ends (1.9B).

    >>> from meshwright.costmodel.presets import load_model
    >>> round(mtp_parameters(load_model("deepseek-v3")) / 1e9, 2)
    11.61
    """
    projection, norms = 2 * model.hidden**2, norm_parameters(model.hidden, 3, model.layers[-1].norm_bias)
    return model.mtp_depth * (layer_parameters(model.layers[-1], model.hidden).total + projection + norms)


def mtp_active_parameters(model: ModelSpec) -> int:
    """Parameters of all multi-token-prediction modules that one token meets, the main model's head not counted again.

    Equation: D (last layer - (E - k) expert + 2 h h + 3 h).
    Source: DeepSeek-V3 (arXiv 2412.19437) section 2.2.

    >>> from meshwright.costmodel.presets import load_model
    >>> round(mtp_active_parameters(load_model("deepseek-v3")) / 1e9, 2)
    0.69
    """
    last = model.layers[-1]
    idle = layer_parameters(last, model.hidden).total - active_layer_parameters(last, model.hidden)
    return mtp_parameters(model) - model.mtp_depth * idle


def total_parameters(model: ModelSpec) -> int:
    """The model as published: multi-token-prediction modules, which training adds, are not in it.

    Equation: embedding + layers + final norm + head. What is trained is this + `mtp_parameters`.
    Source: DeepSeek-V3 (arXiv 2412.19437) gives 671B without and its model card 685B with the modules.

    >>> from meshwright.costmodel.presets import load_model
    >>> total_parameters(load_model("llama-3.1-8b"))
    8030261248
    """
    return _outside_layers(model) + sum(
        count * layer_parameters(layer, model.hidden).total for layer, count in model.layer_runs
    )


def active_parameters(model: ModelSpec) -> int:
    """Parameters that one token meets: k experts of each sparse layer and everything else, embedding and head too.

    Equation: total - sum over layers of (E - k) expert.
    Source: Mixtral (arXiv 2401.04088) section 2.1. Some publishers leave out the embedding or the head.

    >>> from meshwright.costmodel.presets import load_model
    >>> active_parameters(load_model("mixtral-8x7b"))
    12879925248
    """
    return _outside_layers(model) + sum(
        count * active_layer_parameters(layer, model.hidden) for layer, count in model.layer_runs
    )


def _outside_layers(model: ModelSpec) -> int:
    return embedding_parameters(model) + final_norm_parameters(model) + head_parameters(model)


def _query_parameters(attention: AttentionSpec, hidden: int) -> int:
    rank = attention.query_lora_rank
    if attention.is_mla and rank:
        return rank * (hidden + attention.query_width)
    return hidden * attention.query_width


def _key_value_parameters(attention: AttentionSpec, hidden: int) -> int:
    if attention.is_mla:
        down = hidden * (attention.kv_lora_rank + attention.rope_head_dim)
        up_width = attention.num_heads * (attention.nope_head_dim + attention.value_head_dim)
        return down + attention.kv_lora_rank * up_width
    return 0 if attention.shares_key_value else hidden * (attention.key_width + attention.value_width)


def _qkv_bias_parameters(attention: AttentionSpec) -> int:
    """MLA has biases on the two down projections alone, and on none of the query without a latent."""
    if not attention.qkv_bias:
        return 0
    if attention.is_mla:
        return attention.query_lora_rank + attention.kv_lora_rank + attention.rope_head_dim
    own = 0 if attention.shares_key_value else attention.key_width + attention.value_width
    return attention.query_width + own


def _attention_norm_parameters(attention: AttentionSpec) -> int:
    """Norms inside attention: one weight vector for all query heads, one for all key heads; one for each latent."""
    if attention.is_mla:
        return attention.query_lora_rank + attention.kv_lora_rank
    if not (attention.qk_norm and attention.qk_norm_weights):
        return 0
    return attention.head_dim * (1 if attention.shares_key_value else 2)
