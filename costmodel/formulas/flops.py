"""Model FLOPs: the work a model asks for, whatever hardware and strategy do with it.

One convention everywhere: a multiply-add is 2 FLOPs; the backward pass is twice the forward; causal attention counts
the pairs that are not masked, so half of the square; router and output head count; embedding look-up, norms,
activation functions, biases and recomputation do not.
Symbols: s sequence length, w window, h hidden size, a heads, d and v sizes of a query/key and a value head.
"""

from __future__ import annotations

from typing import Final

import msgspec

from meshwright.costmodel.formulas.attention_pairs import causal_pairs
from meshwright.costmodel.formulas.parameters import attention_matrix_parameters, ffn_parameters
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.value import Value

FLOPS_PER_MULTIPLY_ADD: Final = 2
FORWARD_AND_BACKWARD: Final = 3
"""Forward once, backward twice as much."""


class FlopsPerToken(Value, frozen=True, kw_only=True):
    """Forward and backward FLOPs of one token by part; multi-token-prediction modules are in the parts they use."""

    linear: float
    attention_scores: float
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.attention_scores + self.head


def attention_pairs(attention: AttentionSpec, seq_len: int) -> float:
    """Query-key pairs that causal attention does not mask, for one sequence and one head.

    Equation: causal_pairs(s, w); in chunks of c < s: that of each chunk, the last one shorter.
    Source: `causal_pairs`; transformers 4.57, masking_utils, chunked causal mask.

    >>> scout = AttentionSpec(num_heads=40, num_kv_heads=8, head_dim=128, value_head_dim=128, chunk=8192)
    >>> attention_pairs(scout, 20480)  # 8192^2/2 twice, 4096^2/2 once
    75497472.0
    """
    if not 0 < attention.chunk < seq_len:
        return causal_pairs(seq_len, attention.window)
    whole, rest = divmod(seq_len, attention.chunk)
    return whole * causal_pairs(attention.chunk, attention.window) + causal_pairs(rest, attention.window)


def attention_score_flops(attention: AttentionSpec, seq_len: int) -> float:
    """Forward FLOPs of scores and weighted values, per token, averaged over a sequence.

    Equation: 2 a (d + v) pairs / s.
    Source: FlashAttention-2 (arXiv 2307.08691) section 4.1, half for the causal mask.

    >>> mixtral = AttentionSpec(num_heads=32, num_kv_heads=8, head_dim=128, value_head_dim=128)
    >>> attention_score_flops(mixtral, 8192)  # 2 * 32 * 256 * 4096
    67108864.0
    """
    width = attention.num_heads * (attention.head_dim + attention.value_head_dim)
    return FLOPS_PER_MULTIPLY_ADD * width * attention_pairs(attention, seq_len) / seq_len


def ffn_multiply_adds(ffn: DenseFfnSpec | MoeFfnSpec, hidden: int) -> int:
    """Multiply-adds of the feed-forward block for one token: matrices of k experts, shared experts, gate, router.

    Equation: 3 h f dense; 3 h (k f + f_shared) + h E sparse, + h for a gate on the shared experts; 2 for 3 without
    a gated unit.
    Source: MegaScale-MoE (arXiv 2505.11432) table 2; Mixtral (arXiv 2401.04088) section 2.1.

    >>> ffn_multiply_adds(MoeFfnSpec(num_experts=8, top_k=2, intermediate=14336), 4096)  # 3*4096*28672 + 4096*8
    352354304
    """
    if isinstance(ffn, DenseFfnSpec):
        return ffn_parameters(hidden, ffn.intermediate, ffn.gated, bias=False)
    width = ffn.top_k * ffn.intermediate + ffn.shared_intermediate
    router = hidden * (ffn.num_experts + (1 if ffn.shared_gate else 0))
    return ffn_parameters(hidden, width, ffn.gated, bias=False) + router


def linear_flops(layer: LayerSpec, hidden: int) -> int:
    """Forward FLOPs of one layer's matrices for one token.

    Equation: 2 (attention matrices + feed-forward matrices).
    Source: Scaling Laws (arXiv 2001.08361) table 1.

    >>> attention = AttentionSpec(num_heads=32, num_kv_heads=8, head_dim=128, value_head_dim=128)
    >>> linear_flops(LayerSpec(attention=attention, ffn=DenseFfnSpec(intermediate=14336)), 4096)  # Llama-3.1-8B
    436207616
    """
    multiply_adds = attention_matrix_parameters(layer.attention, hidden) + ffn_multiply_adds(layer.ffn, hidden)
    return FLOPS_PER_MULTIPLY_ADD * multiply_adds


def layer_flops(layer: LayerSpec, hidden: int, seq_len: int) -> float:
    """Forward FLOPs of one layer for one token.

    Equation: linear + attention scores.
    Source: the functions summed.

    >>> attention = AttentionSpec(num_heads=32, num_kv_heads=8, head_dim=128, value_head_dim=128)
    >>> layer_flops(LayerSpec(attention=attention, ffn=DenseFfnSpec(intermediate=14336)), 4096, 8192)
    503316480.0
    """
    return linear_flops(layer, hidden) + attention_score_flops(layer.attention, seq_len)


def head_flops(model: ModelSpec) -> int:
    """Forward FLOPs of the output head for one token, tied or not.

    Equation: 2 h V.
    Source: Scaling Laws (arXiv 2001.08361) table 1, de-embed.

    >>> from meshwright.costmodel.presets import load_model
    >>> head_flops(load_model("internal-352b"))  # 2 * 4096 * 65536
    536870912
    """
    return FLOPS_PER_MULTIPLY_ADD * model.hidden * model.vocab


def flops_per_token_by_part(model: ModelSpec, seq_len: int) -> FlopsPerToken:
    """Forward and backward FLOPs of one token by part.

    Equation: 3 (sum over layers and modules); a multi-token-prediction module is the last layer, a projection of
    2 h h multiply-adds and the head once more.
    Source: MegaScale-MoE (arXiv 2505.11432) table 2 and its stated MFU; DeepSeek-V3 (arXiv 2412.19437) section 2.2.

    >>> from meshwright.costmodel.presets import load_model
    >>> parts = flops_per_token_by_part(load_model("internal-352b"), 8192)
    >>> parts.attention_scores  # 3 * 60 * 67108864
    12079595520.0
    """
    runs = (*model.layer_runs, (model.layers[-1], model.mtp_depth))
    projections = FLOPS_PER_MULTIPLY_ADD * model.mtp_depth * 2 * model.hidden**2
    linear = sum(count * linear_flops(layer, model.hidden) for layer, count in runs) + projections
    scores = sum(count * attention_score_flops(layer.attention, seq_len) for layer, count in runs)
    return FlopsPerToken(
        linear=float(FORWARD_AND_BACKWARD * linear),
        attention_scores=FORWARD_AND_BACKWARD * scores,
        head=float(FORWARD_AND_BACKWARD * (1 + model.mtp_depth) * head_flops(model)),
    )


def mtp_flops_per_token(model: ModelSpec, seq_len: int) -> float:
    """What multi-token-prediction modules, which published parameter counts leave out, add to a token's FLOPs.

    Equation: `flops_per_token` - `flops_per_token` without them.
    Source: DeepSeek-V3 (arXiv 2412.19437) section 2.2.

    >>> from meshwright.costmodel.presets import load_model
    >>> round(mtp_flops_per_token(load_model("deepseek-v3"), 4096) / 1e9, 2)
    10.19
    """
    without = msgspec.structs.replace(model, mtp_depth=0)
    return flops_per_token(model, seq_len) - flops_per_token(without, seq_len)


def flops_per_token(model: ModelSpec, seq_len: int) -> float:
    """Forward and backward FLOPs of one token of a sequence of `seq_len`, multi-token prediction included.

    Equation: the sum of `flops_per_token_by_part`.
    Source: MegaScale-MoE (arXiv 2505.11432): 282.5 GFLOP/token reproduces the stated MFU of the 352B model.

    >>> from meshwright.costmodel.presets import load_model
    >>> round(flops_per_token(load_model("internal-352b"), 8192) / 1e9, 1)
    282.5
    """
    return flops_per_token_by_part(model, seq_len).total


def model_flops_utilization(
    flops_per_token: float, tokens_per_s: float, num_gpus: int, peak_flops_per_s: float
) -> float:
    """Share of the hardware's peak that the model's own FLOPs use (MFU).

    Equation: FLOPs/token * tokens/s / (GPUs * peak).
    Source: PaLM (arXiv 2204.02311) appendix B.

    >>> round(model_flops_utilization(282.5e9, 1.4077e6, 1440, 989e12), 4)  # MegaScale-MoE table 3, 1,440 H800
    0.2792
    """
    return flops_per_token * tokens_per_s / (num_gpus * peak_flops_per_s)
