"""Attention and its backward: cuDNN's or FlashAttention's kernels on CUDA, the formula anywhere.

What the forward kernel leaves for its backward beside the log of the softmax's sums rides with `attn_lse`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.context import AttentionKernel
from meshwright.executor.layer.functions import attention_formula, attention_kernels
from meshwright.executor.layer.functions.attention_kernels import KernelState
from meshwright.executor.layer.scope import Scope

STATE = "state"
EXCHANGED = "qkv_a2a"


def attention(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Causal attention of every head; the output is (T, N D)."""
    query, key, value = _operands(operator, scope)
    scale = scope.layer.score_scale
    match scope.layer.attention_kernel:
        case AttentionKernel.CUDNN:
            out, lse, state = attention_kernels.cudnn(query, key, value, scale)
        case AttentionKernel.FA2:
            out, lse, state = attention_kernels.fa2(query, key, value, scale)
        case AttentionKernel.FORMULA:
            out, lse = attention_formula.attention(query, key, value, scale)
            state = KernelState()
    scope.values.ride("attn_lse", STATE, state)
    return {"attn": _by_token(out).flatten(1), "attn_lse": lse}


def attention_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of queries, keys and values."""
    operands = _operands(operator, scope)
    values, heads = scope.values, operands[0].shape[1]
    out = _by_head(values["attn"].unflatten(1, (heads, -1)), scope)
    grad = _by_head(values[f"{GRADIENT}attn"].unflatten(1, (heads, -1)), scope)
    state, scale = values.rider("attn_lse", STATE, KernelState), scope.layer.score_scale
    match scope.layer.attention_kernel:
        case AttentionKernel.CUDNN:
            grads = attention_kernels.cudnn_backward(grad, *operands, out, values["attn_lse"], state, scale)
        case AttentionKernel.FA2:
            grads = attention_kernels.fa2_backward(grad, *operands, out, values["attn_lse"], state, scale)
        case AttentionKernel.FORMULA:
            grads = attention_formula.attention_backward(grad, *operands, out, values["attn_lse"], scale)
    return _written(operator, [_by_token(part) for part in grads])


def _written(operator: Operator, grads_TND: list[Tensor]) -> dict[str, Tensor]:
    if operator.writes == (f"{GRADIENT}{EXCHANGED}",):
        return {operator.writes[0]: torch.cat([grad.flatten(1) for grad in grads_TND], 1)}
    query, key, value = grads_TND
    return {
        f"{GRADIENT}q_rope": query.flatten(1),
        f"{GRADIENT}k_rope": key.flatten(1),
        f"{GRADIENT}v": value.flatten(1),
    }


def _operands(operator: Operator, scope: Scope) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (B, N, S, D), as views where their strides allow."""
    shape, values = scope.layer.shape, scope.values
    if EXCHANGED in operator.reads:
        kv_heads = shape.attended_kv_heads
        widths = [
            shape.attended_heads * shape.head_dim,
            kv_heads * shape.head_dim,
            kv_heads * shape.value_head_dim,
        ]
        query, key, value = values[EXCHANGED].split(widths, 1)
    else:
        query, key, value = values["q_rope"], values["k_rope"], values["v"]
    return (
        _by_head(_heads(query, shape.head_dim), scope),
        _by_head(_heads(key, shape.head_dim), scope),
        _by_head(_heads(value, shape.value_head_dim), scope),
    )


def _heads(x: Tensor, head_dim: int) -> Tensor:
    return x if x.dim() == 3 else x.unflatten(1, (-1, head_dim))


def _by_head(x_TND: Tensor, scope: Scope) -> Tensor:
    """(T, N, D) with T = S B to (B, N, S, D)."""
    by_position: Tensor = x_TND.unflatten(0, (-1, scope.layer.setting.micro_batch))
    return by_position.permute(1, 2, 0, 3)


def _by_token(x_BNSD: Tensor) -> Tensor:
    """(B, N, S, D) to (T, N, D)."""
    return x_BNSD.permute(2, 0, 1, 3).flatten(0, 1)
