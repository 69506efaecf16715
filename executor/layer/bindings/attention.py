"""Attention and its backward: cuDNN's or FlashAttention's kernels on CUDA, the formula anywhere.

What the forward kernel leaves for its backward beside the log of the softmax's sums rides with `attn_lse`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.bindings.attention_passes import PASSES
from meshwright.executor.layer.bindings.heads import attended, by_head, by_token, written_gradients
from meshwright.executor.layer.functions.attention_kernels import KernelState
from meshwright.executor.layer.functions.masks import CAUSAL
from meshwright.executor.layer.scope import Scope

STATE = "state"


def attention(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Causal attention of every head; the output is (T, N D)."""
    layer = scope.layer
    forward = PASSES[layer.attention_kernel].forward
    out, lse, state = forward(*attended(operator, scope), layer.score_scale, CAUSAL)
    scope.values.ride("attn_lse", STATE, state)
    return {"attn": by_token(out).flatten(1), "attn_lse": lse}


def attention_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of queries, keys and values."""
    layer, values = scope.layer, scope.values
    operands = attended(operator, scope)
    heads = operands[0].shape[1]
    out = by_head(values["attn"].unflatten(1, (heads, -1)), scope)
    grad = by_head(values[f"{GRADIENT}attn"].unflatten(1, (heads, -1)), scope)
    state = values.rider("attn_lse", STATE, KernelState)
    backward = PASSES[layer.attention_kernel].backward
    grads = backward(grad, *operands, out, values["attn_lse"], state, layer.score_scale, CAUSAL)
    return written_gradients(operator, [by_token(part) for part in grads])
