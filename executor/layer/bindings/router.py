"""The router: logits in float32, the choice of experts and their weights, and the layout of the rows that follows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.functions.gate_weights import choose_experts, weigh, weigh_backward
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.routing import EXPERTS, LAYOUT, balanced_experts, plan_layout
from meshwright.executor.layer.scope import Scope, forward_name

ROUTER = "router"
ROUTING = "routing"
LOGITS = "router_logits"


def is_router(operator: Operator) -> bool:
    """Whether the product is the router's."""
    return forward_name(operator) == ROUTER


def router_forward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Logits, (T, E)."""
    x, weight = scope.values[operator.reads[0]], scope.parameters[ROUTER]
    logits = _float32_product(x, weight.t())
    bias = scope.parameters.get(f"{ROUTER}.bias")
    return {LOGITS: logits if bias is None else logits + bias}


def _float32_product(left: Tensor, right: Tensor) -> Tensor:
    """The product without rounding its sums to 16 bits."""
    if left.is_cuda and left.dtype is torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).to(statistics_type(left.dtype))


def router_dgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradient of the input through the logits."""
    weight = scope.parameters[ROUTER]
    return {operator.writes[0]: scope.values[operator.reads[0]].to(weight.dtype) @ weight}


def router_wgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradient of the matrix and its bias."""
    x, grad = scope.reads(operator)
    scope.parameters.add_gradient(ROUTER, grad.to(x.dtype).t() @ x)
    if scope.parameters.get(f"{ROUTER}.bias") is not None:
        scope.parameters.add_gradient(f"{ROUTER}.bias", grad.sum(0).to(x.dtype))
    return {}


def top_k(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gate weights, (T, K); the experts and the layout of the rows that follows from them ride along.

    Under expert parallelism ranks tell each other here how many rows, or which tokens, go where. Run again, it computes
    the weights anew and takes experts and layout as they were.
    """
    if operator.recomputes:
        return {ROUTING: _weights(scope, scope.values.rider(ROUTING, EXPERTS, Tensor))}
    layer, logits = scope.layer, scope.values[operator.reads[0]]
    experts = choose_experts(logits, layer.moe, scope.parameters.get(f"{ROUTER}.correction"))
    if layer.routing.balanced:
        experts = balanced_experts(logits.shape[0], layer.moe.num_experts, layer.moe.top_k, layer.device)
    weights = _weights(scope, experts)
    scope.values.ride(ROUTING, EXPERTS, experts)
    scope.values.ride(ROUTING, LAYOUT, plan_layout(experts, weights, layer, scope.host))
    return {ROUTING: weights}


def _weights(scope: Scope, experts_TK: Tensor) -> Tensor:
    choice, score = scope.layer.routing, scope.layer.moe.score
    return weigh(scope.values[LOGITS], experts_TK, score, normalize=choice.normalize, scale=choice.scale)


def top_k_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradient of the logits from that of the gate weights."""
    layer, choice = scope.layer, scope.layer.routing
    experts = scope.values.rider(ROUTING, EXPERTS, Tensor)
    grad = weigh_backward(
        scope.values[LOGITS],
        experts,
        scope.values[GRADIENT + ROUTING],
        layer.moe.score,
        normalize=choice.normalize,
        scale=choice.scale,
    )
    return {operator.writes[0]: grad}
