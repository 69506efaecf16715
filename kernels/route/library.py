"""`torch.ops.meshwright.route`: routing for autograd and torch.compile. Weights and sums are differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meshwright.costmodel.model import RouterScore
from meshwright.kernels.library_name import NAMESPACE
from meshwright.kernels.route.contract import RouteOptions
from meshwright.kernels.route.operator import route, route_backward

_OPTIONS = "int top_k, str score, bool normalize, float scale, int num_groups, int groups_per_token"


def _options(top_k: int, score: str, normalize: bool, scale: float, num_groups: int, groups: int) -> RouteOptions:
    return RouteOptions(
        top_k=top_k,
        score=RouterScore(score),
        normalize=normalize,
        scale=scale,
        num_groups=num_groups,
        groups_per_token=groups,
    )


@torch.library.custom_op(
    f"{NAMESPACE}::route",
    mutates_args=(),
    schema=f"(Tensor logits, Tensor? bias, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def route_op(logits: Tensor, bias: Tensor | None, *options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN401  as the schema says
    """Weights, sums, experts, counts."""
    routed = route(logits, _options(*options), bias)
    return routed.weights_TK, routed.sums_E, routed.experts_TK, routed.counts_E


@route_op.register_fake
def _fake(logits: Tensor, bias: Tensor | None, top_k: int, *options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN401, ARG001
    tokens, experts = logits.shape
    return (
        logits.new_empty((tokens, top_k)),
        logits.new_empty((experts,)),
        logits.new_empty((tokens, top_k), dtype=torch.int32),
        logits.new_empty((experts,), dtype=torch.int32),
    )


@torch.library.custom_op(
    f"{NAMESPACE}::route_backward",
    mutates_args=(),
    schema=(
        f"(Tensor logits, Tensor experts, Tensor weights, Tensor grad_weights, Tensor? grad_sums, {_OPTIONS}) -> Tensor"
    ),
)
def route_backward_op(
    logits: Tensor,
    experts: Tensor,
    weights: Tensor,
    grad_weights: Tensor,
    grad_sums: Tensor | None,
    *options: Any,  # noqa: ANN401  as the schema says
) -> Tensor:
    """Gradient of the logits."""
    return route_backward(logits, experts, weights, grad_weights, grad_sums, _options(*options))


@route_backward_op.register_fake
def _fake_backward(logits: Tensor, *_: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401  autograd's own
    logits, _, *ctx.options = inputs
    weights, _, experts, counts = output
    ctx.mark_non_differentiable(experts, counts)
    ctx.save_for_backward(logits, experts, weights)


def _backward(ctx: Any, grad_weights: Tensor, grad_sums: Tensor, *_: None) -> tuple[Any, ...]:  # noqa: ANN401
    logits, experts, weights = ctx.saved_tensors
    grad = torch.ops.meshwright.route_backward(logits, experts, weights, grad_weights, grad_sums, *ctx.options)
    return grad, *[None] * (1 + len(ctx.options))


route_op.register_autograd(_backward, setup_context=_save)
