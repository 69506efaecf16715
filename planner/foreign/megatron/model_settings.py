"""A model as Megatron-LM's arguments: `model.model_of` read backwards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, ModelSpec, MoeFfnSpec, RouterScore
from meshwright.planner.foreign.settings import SettingValue

PADDING = 128
"""What Megatron-LM pads the vocabulary to a multiple of, times tp, where it is not told its size."""

MAX_PERIOD = 16
"""Longer patterns of layers are written as runs."""

Changes = dict[str, SettingValue]


def model_settings(model: ModelSpec, seq_len: int, tp: int) -> Changes:
    """Settings whose model has these layers; the first layer of each kind stands for all.

    What the arguments cannot say is left out: comparing with what they are read as finds it.
    """
    first = model.layers[0]
    return {
        "num_layers": model.num_layers,
        "max_position_embeddings": model.learned_positions or seq_len,
        "position_embedding_type": "learned_absolute" if model.learned_positions else "rope",
        "normalization": "LayerNorm" if first.norm_bias else "RMSNorm",
        "add_bias_linear": first.attention.output_bias,
        "untie_embeddings_and_output_weights": not model.tied_embeddings,
        "padded_vocab_size": vocabulary(model.vocab, tp),
        **_attention(first.attention),
        **_windows([layer.attention.window for layer in model.layers]),
        **_feed_forward(model),
    }


def vocabulary(vocab: int, tp: int) -> int:
    """Rows of the embedding: as the model has them where tp divides them, else padded as Megatron-LM would.

    >>> vocabulary(151936, 8), vocabulary(50257, 8)
    (151936, 51200)
    """
    unit = PADDING * tp
    return vocab if vocab % tp == 0 else -(-vocab // unit) * unit


def _attention(attention: AttentionSpec) -> Changes:
    common: Changes = {
        "num_attention_heads": attention.num_heads,
        "softmax_type": "learnable" if attention.sinks else None,
    }
    if attention.is_mla:
        return common | {
            "multi_latent_attention": True,
            "qk_layernorm": True,
            "q_lora_rank": attention.query_lora_rank or None,
            "kv_lora_rank": attention.kv_lora_rank,
            "qk_head_dim": attention.nope_head_dim,
            "qk_pos_emb_head_dim": attention.rope_head_dim,
            "v_head_dim": attention.value_head_dim,
        }
    grouped = attention.num_kv_heads != attention.num_heads
    return common | {
        "group_query_attention": grouped,
        "num_query_groups": attention.num_kv_heads if grouped else None,
        "kv_channels": attention.head_dim,
        "qk_layernorm": attention.qk_norm and attention.qk_norm_weights,
        "qk_l2_norm": attention.qk_norm and not attention.qk_norm_weights,
        "add_qkv_bias": attention.qkv_bias and not attention.output_bias,
    }


def _windows(windows: Sequence[int]) -> Changes:
    """The sliding window and which layers have it."""
    window = max(windows)
    if not window:
        return {}
    pattern = pattern_text([int(size > 0) for size in windows])
    return {"window_size": f"{window - 1},0", "window_attn_skip_freq": None if all(windows) else pattern}


def _feed_forward(model: ModelSpec) -> Changes:
    ffns = [layer.ffn for layer in model.layers]
    dense = next((ffn for ffn in ffns if isinstance(ffn, DenseFfnSpec)), None)
    experts = next((ffn for ffn in ffns if isinstance(ffn, MoeFfnSpec)), None)
    changes: Changes = {"swiglu": ffns[0].gated}
    if dense or experts:
        changes["ffn_hidden_size"] = (dense or experts).intermediate  # type: ignore[union-attr]  # one of them is there
    if experts:
        changes |= _experts(experts)
        changes["moe_layer_freq"] = _frequency([int(layer.is_moe) for layer in model.layers])
    return changes


def _experts(ffn: MoeFfnSpec) -> Changes:
    grouped = ffn.num_expert_groups > 1
    sigmoid = ffn.score is RouterScore.SIGMOID
    return {
        "num_experts": ffn.num_experts,
        "moe_ffn_hidden_size": ffn.intermediate,
        "moe_router_topk": ffn.top_k,
        "moe_shared_expert_intermediate_size": ffn.shared_intermediate or None,
        "moe_shared_expert_gate": ffn.shared_gate,
        "moe_router_score_function": "sigmoid" if sigmoid else "softmax",
        "moe_router_pre_softmax": ffn.top_k == 1 and not sigmoid,
        "moe_router_enable_expert_bias": ffn.score_correction_bias,
        "moe_router_num_groups": ffn.num_expert_groups if grouped else None,
        "moe_router_group_topk": ffn.groups_per_token if grouped else None,
        "moe_grouped_gemm": True,
        "moe_permute_fusion": True,
    }


def _frequency(kinds: Sequence[int]) -> str:
    """One in every N layers, or the pattern."""
    every = next((index for index, kind in enumerate(kinds[1:], start=1) if kind), len(kinds))
    regular = [int(index % every == 0) for index in range(len(kinds))]
    return str(every) if regular == list(kinds) else pattern_text(kinds)


def pattern_text(kinds: Sequence[int]) -> str:
    """A pattern of layers as Megatron-LM reads it, in runs; of one that repeats, a list for the period.

    >>> pattern_text([0, 0, 0, 1, 1, 1, 1]), pattern_text([1, 0, 1, 0])
    ('[0]*3+[1]*4', '[1,0]*2')
    """
    length = len(kinds)
    for period in range(2, min(MAX_PERIOD, length // 2) + 1):
        block = list(kinds[:period])
        if len(set(block)) > 1 and block * (length // period) == list(kinds):
            return f"[{','.join(map(str, block))}]*{length // period}"
    return "+".join(f"[{kind}]*{len(list(run))}" for kind, run in groupby(kinds))
