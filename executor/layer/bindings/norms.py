"""Norms of the hidden vector, of latents and of single heads. The backward adds the gradients that pass the norm by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.functions import norms
from meshwright.executor.layer.scope import Scope, forward_name

SCALE, MEAN = "scale", "mean"
HEAD_NORMS = "qk_norm"
CARRYING = "norm_kv_latent"
"""The norm of a latent that carries the rotary part of the keys, which is not normed."""
LATENT_NORMS = ("norm_q_latent", CARRYING)


def norm(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The normed tensor; its statistics ride along."""
    name, source, target = forward_name(operator), operator.reads[0], operator.writes[0]
    x, carried = _parts(name, scope.values[source], scope)
    normed = _normed(name, x, target, scope)
    return {target: normed if carried is None else torch.cat((normed, carried), 1)}


def norm_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradient of the norm's input, plus what else reaches it."""
    name, (source, grad, *residuals) = forward_name(operator), operator.reads
    x, _ = _parts(name, scope.values[source], scope)
    upstream, carried = _parts(name, scope.values[grad], scope)
    residual = scope.values[residuals[0]] if residuals else None
    out = _backward(name, x, upstream, _statistics_name(operator, name), scope, residual)
    return {operator.writes[0]: out if carried is None else torch.cat((out, carried), 1)}


def head_norms(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Queries and keys, each head normed."""
    return {target: _head_norm(source, target, scope) for source, target in _pairs(operator)}


def _pairs(operator: Operator) -> list[tuple[str, str]]:
    return list(zip(operator.reads, operator.writes, strict=True))


def _head_norm(source: str, target: str, scope: Scope) -> Tensor:
    heads = scope.values[source].unflatten(1, (-1, scope.layer.shape.head_dim))
    return _normed(target, heads, target, scope).flatten(1)


def head_norms_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of queries and keys."""
    written = {}
    for target in operator.writes:
        source = target.removeprefix(GRADIENT)
        heads = (-1, scope.layer.shape.head_dim)
        x = scope.values[source].unflatten(1, heads)
        grad = scope.values[f"{target}_norm"].unflatten(1, heads)
        written[target] = _backward(f"{source}_norm", x, grad, f"{source}_norm", scope).flatten(1)
    return written


def _statistics_name(operator: Operator, name: str) -> str:
    """The normed tensor that the statistics ride with: the one whose gradient the operator reads."""
    if name.startswith("post_norm."):
        return f"{operator.reads[0]}_normed"
    return operator.reads[1].removeprefix(GRADIENT)


def _parts(name: str, x: Tensor, scope: Scope) -> tuple[Tensor, Tensor | None]:
    if name != CARRYING:
        return x, None
    attention = scope.layer.layer.attention
    normed, carried = x.split([attention.kv_lora_rank, attention.rope_head_dim], 1)
    return normed, carried


def _normed(name: str, x: Tensor, target: str, scope: Scope) -> Tensor:
    weight, bias = scope.parameters.get(name), scope.parameters.get(f"{name}.bias")
    epsilon = scope.layer.latent_norm_epsilon if name in LATENT_NORMS else scope.layer.norm_epsilon
    if weight is not None and bias is not None:
        normed, mean, scale = norms.layer_norm(x, weight, bias, epsilon)
        scope.values.ride(target, MEAN, mean)
    elif scope.layer.fuse:
        normed, scale = scope.layer.fused(norms.rms_norm)(x, weight, epsilon)
    elif x.is_cuda:
        normed, scale = norms.shipped_rms_norm(x, weight, epsilon)
    else:
        normed, scale = norms.rms_norm(x, weight, epsilon)
    scope.values.ride(target, SCALE, scale)
    return normed


def _backward(name: str, x: Tensor, grad: Tensor, normed: str, scope: Scope, residual: Tensor | None = None) -> Tensor:
    weight, bias = scope.parameters.get(name), scope.parameters.get(f"{name}.bias")
    scale = scope.values.rider(normed, SCALE, Tensor)
    if weight is not None and bias is not None:
        mean = scope.values.rider(normed, MEAN, Tensor)
        grad_x, grad_weight, grad_bias = norms.layer_norm_backward(x, mean, scale, weight, bias, grad)
        scope.parameters.add_gradient(f"{name}.bias", grad_bias)
        scope.parameters.add_gradient(name, grad_weight)
        return grad_x if residual is None else grad_x + residual
    function = _rms_norm_backward(x, scope)
    grad_x, weight_gradient = function(x, scale, weight, grad, residual)
    if weight is not None and weight_gradient is not None:
        scope.parameters.add_gradient(name, weight_gradient)
    return grad_x


def _rms_norm_backward(x: Tensor, scope: Scope) -> Callable[..., tuple[Tensor, Tensor | None]]:
    if scope.layer.fuse:
        return scope.layer.fused(norms.rms_norm_backward)
    return norms.shipped_rms_norm_backward if x.is_cuda else norms.rms_norm_backward
