"""Rotary position embedding of queries and keys; MLA's key is put together here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.bindings.latent import ROTARY_PART
from meshwright.executor.layer.functions.rotary import rotate_beside, rotate_into, rotated, rotated_beside
from meshwright.executor.layer.scope import Scope
from meshwright.executor.layer.values import side_by_side


def rope(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Queries and keys of all heads, rotated."""
    if scope.layer.layer.attention.is_mla:
        return _latent_rope(scope)
    return _rotate_all(operator, scope, scope.rotary.sin)


def rope_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients, rotated the other way round."""
    attention = scope.layer.layer.attention
    if attention.is_mla:
        return _latent_rope_backward(scope)
    if attention.qk_norm:
        return _rotate_all(operator, scope, scope.rotary.reverse_sin)
    return _rotate_beside_values(operator, scope)


def _rotate_beside_values(operator: Operator, scope: Scope) -> dict[str, Tensor]:
    """Gradients of queries and keys, written beside that of the values, so that the projection finds them joined.

    The values' gradient is there by now: what writes it also writes what is rotated.
    """
    shape, value = scope.layer.shape, f"{GRADIENT}v"
    parts = [x.unflatten(1, (-1, shape.head_dim)) for x in scope.reads(operator)]
    last = scope.values[value].unflatten(1, (-1, shape.value_head_dim))
    function = scope.layer.fused(rotated_beside) if scope.layer.fuse else rotate_beside
    joint = function(parts, last, scope.rotary.cos, scope.rotary.reverse_sin)
    query, key, values = joint.split([shape.query_width, shape.key_width, shape.value_width], 1)
    scope.values.move(value, values)
    return dict(zip(operator.writes, (query, key), strict=True))


def _rotate_all(operator: Operator, scope: Scope, sin: Tensor) -> dict[str, Tensor]:
    """All heads in one go where queries and keys are neighbours."""
    sources = scope.reads(operator)
    joint = side_by_side(sources)
    if joint is None:
        return {name: _rotated(x, scope, sin) for name, x in zip(operator.writes, sources, strict=True)}
    parts = _rotated(joint, scope, sin).split([x.shape[1] for x in sources], 1)
    return dict(zip(operator.writes, parts, strict=True))


def _rotated(x_TW: Tensor, scope: Scope, sin: Tensor) -> Tensor:
    heads = x_TW.unflatten(1, (-1, scope.layer.shape.head_dim))
    return _turn(heads, scope, sin).flatten(1)


def _turn(x_TND: Tensor, scope: Scope, sin: Tensor) -> Tensor:
    if scope.layer.fuse:
        return scope.layer.fused(rotated)(x_TND, scope.rotary.cos, sin)
    out = torch.empty(x_TND.shape, dtype=x_TND.dtype, device=x_TND.device)
    rotate_into(out, x_TND, scope.rotary.cos, sin)
    return out


def _latent_rope(scope: Scope) -> dict[str, Tensor]:
    """MLA: the last part of every query head is rotated in place, the shared rotary key goes to every head."""
    attention = scope.layer.layer.attention
    query = scope.values["q"].unflatten(1, (-1, attention.head_dim))
    _turn_in_place(query, attention.nope_head_dim, scope, scope.rotary.sin)
    keys = scope.values["k"]
    rotary = _turn(scope.values.rider("k", ROTARY_PART, Tensor).unsqueeze(1), scope, scope.rotary.sin)
    key = torch.cat((keys, rotary.expand(-1, keys.shape[1], -1)), -1)
    return {"q_rope": query.flatten(1), "k_rope": key.flatten(1)}


def _latent_rope_backward(scope: Scope) -> dict[str, Tensor]:
    """The shared rotary key gets the sum over heads, which rides with the gradient of the keys."""
    attention, sin = scope.layer.layer.attention, scope.rotary.reverse_sin
    grad_query = scope.values[f"{GRADIENT}q_rope"].unflatten(1, (-1, attention.head_dim))
    _turn_in_place(grad_query, attention.nope_head_dim, scope, sin)
    grad_key = scope.values[f"{GRADIENT}k_rope"].unflatten(1, (-1, attention.head_dim))
    nope, rotary = grad_key.split([attention.nope_head_dim, attention.rope_head_dim], -1)
    shared = _turn(rotary.sum(1, keepdim=True), scope, sin).squeeze(1)
    scope.values.ride(f"{GRADIENT}k", ROTARY_PART, shared)
    return {f"{GRADIENT}q": grad_query.flatten(1), f"{GRADIENT}k": nope}


def _turn_in_place(x_TND: Tensor, begin: int, scope: Scope, sin: Tensor) -> None:
    rotary = x_TND.narrow(-1, begin, x_TND.shape[-1] - begin)
    rotary.copy_(_turn(rotary, scope, sin))
