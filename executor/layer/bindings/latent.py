"""The up projection of MLA's key/value latent: (nope key, value) of every head, beside the rotary part of the key.

The latent carries the rotary part of the key, one for all heads, behind its normed part. It rides with `k` to where
RoPE puts the key together, and its gradient rides back with `grad:k`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.scope import Scope, forward_name

KV_UP = "kv_up"
ROTARY_PART = "rotary"


def is_latent_up(operator: Operator) -> bool:
    """Whether the product makes keys and values from their latent."""
    return forward_name(operator) == KV_UP


def latent_up(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Keys without their rotary part and values, (T, N, D) each; the rotary part rides with the keys."""
    attention, latent = scope.layer.layer.attention, scope.values[operator.reads[0]]
    normed, rotary = latent.split([attention.kv_lora_rank, attention.rope_head_dim], 1)
    out = (normed @ scope.parameters[KV_UP].t()).unflatten(1, (scope.layer.shape.projected_heads, -1))
    keys, values = out.split([attention.nope_head_dim, attention.value_head_dim], -1)
    scope.values.ride("k", ROTARY_PART, rotary)
    return dict(zip(operator.writes, (keys, values), strict=True))


def latent_up_dgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradient of the latent, the rotary part's behind it."""
    grad = scope.values.joined(operator.reads, _by_head) @ scope.parameters[KV_UP]
    rotary = scope.values.rider(f"{GRADIENT}k", ROTARY_PART, Tensor)
    return {operator.writes[0]: torch.cat((grad, rotary), 1)}


def latent_up_wgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradient of the matrix."""
    source, *gradients = operator.reads
    grad = scope.values.joined(tuple(gradients), _by_head)
    latent = scope.values[source].narrow(1, 0, scope.layer.layer.attention.kv_lora_rank)
    scope.parameters.add_product(KV_UP, grad.t(), latent)
    return {}


def _by_head(parts: list[Tensor]) -> Tensor:
    """Key and value of each head side by side, (T, W)."""
    keys, values = parts
    return torch.cat((keys, values.view(*keys.shape[:2], -1)), -1).flatten(1)
