"""Layers and their strategies in the field's words."""

from __future__ import annotations

from meshwright.costmodel.model import LayerSpec, MoeFfnSpec
from meshwright.costmodel.strategy import ContextMethod, Dispatch, LayerStrategy, Recompute

DISPATCH_WORDS = {
    Dispatch.ALL_TO_ALL: "all-to-all",
    Dispatch.ALL_TO_ALL_DEDUP: "deduplicated all-to-all",
    Dispatch.ALL_GATHER: "all-gather/reduce-scatter",
}
RECOMPUTE_WORDS = {
    Recompute.NONE: "nothing",
    Recompute.ACTIVATION: "activation",
    Recompute.NORM_ACTIVATION: "norms, activation",
    Recompute.CORE_ATTENTION: "core attention",
    Recompute.SELECTIVE: "selective (SAR)",
    Recompute.EVERY_SECOND_GEMM: "every second product",
    Recompute.FFN: "whole FFN",
    Recompute.FULL: "whole layer",
}
CONTEXT_WORDS = {ContextMethod.RING: "ring", ContextMethod.ALL_GATHER: "all-gather"}


def layer_kind(layer: LayerSpec) -> str:
    """What kind of layer it is.

    >>> from meshwright.costmodel.presets import load_model
    >>> [layer_kind(layer) for layer in load_model("deepseek-v3").layer_types]
    ['dense, MLA', 'MoE top-8 of 256 + shared, MLA']
    """
    attention = layer.attention
    words = [_ffn_kind(layer)]
    if attention.is_mla:
        words.append("MLA")
    if attention.window:
        words.append(f"window {attention.window}")
    if attention.chunk:
        words.append(f"chunk {attention.chunk}")
    if attention.shares_key_value:
        words.append("shared K/V")
    return ", ".join(words)


def _ffn_kind(layer: LayerSpec) -> str:
    if not isinstance(layer.ffn, MoeFfnSpec):
        return "dense"
    shared = " + shared" if layer.ffn.shared_intermediate else ""
    return f"MoE top-{layer.ffn.top_k} of {layer.ffn.num_experts}{shared}"


def attention_words(strategy: LayerStrategy) -> str:
    """How attention shares a micro-batch.

    >>> attention_words(LayerStrategy(sp=8)), attention_words(LayerStrategy(tp=4, cp=2))
    ('Ulysses SP 8', 'TP 4 + SP, CP 2 by all-gather')
    """
    words = []
    if strategy.tp > 1:
        words.append(f"TP {strategy.tp}{' + SP' if strategy.sequence_parallel else ''}")
    if strategy.sp > 1:
        words.append(f"Ulysses SP {strategy.sp}")
    if strategy.cp > 1:
        words.append(f"CP {strategy.cp} by {CONTEXT_WORDS[strategy.context_method]}")
    return ", ".join(words) or "not split"


def ffn_words(strategy: LayerStrategy, *, is_moe: bool, has_shared: bool = False) -> str:
    """How the feed-forward block is split; `has_shared`: it has shared experts.

    >>> ffn_words(LayerStrategy(sp=8, ep=8, dispatch=Dispatch.ALL_GATHER), is_moe=True)
    'EP 8 by all-gather/reduce-scatter'
    """
    if not is_moe:
        return f"TP {strategy.ffn_tp}" if strategy.ffn_tp > 1 else "not split"
    words = []
    if strategy.ep > 1:
        words.append(f"EP {strategy.ep}")
    if strategy.etp > 1:
        words.append(f"expert TP {strategy.etp}")
    if not words:
        return "experts not split"
    text = f"{' x '.join(words)} by {DISPATCH_WORDS[strategy.dispatch]}"
    return f"{text}; shared TP {strategy.ffn_tp}" if has_shared and strategy.ffn_tp > 1 else text
