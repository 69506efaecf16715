"""Tensors of attention by token, as operators hand them on, and by head, as kernels take them."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.scope import Scope

EXCHANGED = "qkv_a2a"
"""Queries, keys and values side by side, behind the Ulysses exchange."""


def by_head(x_TND: Tensor, scope: Scope) -> Tensor:
    """(T, N, D) with T = S B to (B, N, S, D)."""
    by_position: Tensor = x_TND.unflatten(0, (-1, scope.layer.setting.micro_batch))
    return by_position.permute(1, 2, 0, 3)


def by_token(x_BNSD: Tensor) -> Tensor:
    """(B, N, S, D) to (T, N, D)."""
    return x_BNSD.permute(2, 0, 1, 3).flatten(0, 1)


def attended(operator: Operator, scope: Scope) -> tuple[Tensor, Tensor, Tensor]:
    """A rank's own queries, keys and values, (B, N, S, D), as views where their strides allow."""
    shape, values = scope.layer.shape, scope.values
    if EXCHANGED in operator.reads:
        query, packed = values[EXCHANGED].split([shape.attended_heads * shape.head_dim, shape.attended_kv_width], 1)
        return by_head(query.unflatten(1, (-1, shape.head_dim)), scope), *unpacked(packed, scope)
    return (
        by_head(_heads(values["q_rope"], shape.head_dim), scope),
        by_head(_heads(values["k_rope"], shape.head_dim), scope),
        by_head(_heads(values["v"], shape.value_head_dim), scope),
    )


def unpacked(packed_TW: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    """Keys and values that lie side by side, (B, N, S, D), as views."""
    shape, kv_heads = scope.layer.shape, scope.layer.shape.attended_kv_heads
    key, value = packed_TW.split([kv_heads * shape.head_dim, kv_heads * shape.value_head_dim], 1)
    return (
        by_head(key.unflatten(1, (-1, shape.head_dim)), scope),
        by_head(value.unflatten(1, (-1, shape.value_head_dim)), scope),
    )


def written_gradients(operator: Operator, grads_TND: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of queries, keys and values by the names of what attention has read."""
    if f"{GRADIENT}{EXCHANGED}" in operator.writes:
        return {f"{GRADIENT}{EXCHANGED}": torch.cat([grad.flatten(1) for grad in grads_TND], 1)}
    names = ("q_rope", "k_rope", "v")
    return {f"{GRADIENT}{name}": grad.flatten(1) for name, grad in zip(names, grads_TND, strict=True)}


def _heads(x: Tensor, head_dim: int) -> Tensor:
    return x if x.dim() == 3 else x.unflatten(1, (-1, head_dim))
