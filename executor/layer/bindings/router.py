"""The router: logits in float32, the choice of experts and their weights, and the layout of the rows that follows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.functions.gate_weights import weigh
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.routing import EXPERTS, LAYOUT, WEIGHTS, balanced_experts, plan_layout
from meshwright.executor.layer.scope import Scope, forward_name
from meshwright.kernels.route.contract import RouteOptions
from meshwright.kernels.route.operator import route, route_backward

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
    scope.parameters.add_product(ROUTER, grad.to(x.dtype).t(), x)
    if scope.parameters.get(f"{ROUTER}.bias") is not None:
        scope.parameters.add_gradient(f"{ROUTER}.bias", grad.sum(0).to(x.dtype))
    return {}


def top_k(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gate weights, (T, K); the experts and the layout of the rows that follows from them ride along.

    Under expert parallelism ranks tell each other here how many rows, or which tokens, go where. Run again, it takes
    weights, experts and layout as they were, so that recomputation cannot send a token elsewhere.
    """
    if operator.recomputes:
        return {ROUTING: scope.values.rider(ROUTING, WEIGHTS, Tensor)}
    layer = scope.layer
    experts, weights = _routed(scope, scope.values[operator.reads[0]])
    scope.values.ride(ROUTING, WEIGHTS, weights)
    scope.values.ride(ROUTING, EXPERTS, experts)
    scope.values.ride(ROUTING, LAYOUT, plan_layout(experts, weights, layer, scope.host))
    return {ROUTING: weights}


def _routed(scope: Scope, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
    """The experts of each token (int32) and their weights, (T, K)."""
    layer, choice = scope.layer, scope.layer.routing
    if not choice.balanced:
        correction = scope.parameters.get(f"{ROUTER}.correction")
        bias = None if correction is None else correction.to(logits_TE.dtype)
        routed = route(logits_TE, _options(layer), bias, sums=False)
        return routed.experts_TK, routed.weights_TK
    experts = balanced_experts(logits_TE.shape[0], layer.moe.num_experts, layer.moe.top_k, layer.device)
    weights = weigh(logits_TE, experts, layer.moe.score, normalize=choice.normalize, scale=choice.scale)
    return experts.to(torch.int32), weights


def _options(layer: LayerContext) -> RouteOptions:
    moe, choice = layer.moe, layer.routing
    return RouteOptions(
        top_k=moe.top_k,
        score=moe.score,
        normalize=choice.normalize,
        scale=choice.scale,
        num_groups=moe.num_expert_groups,
        groups_per_token=moe.groups_per_token,
    )


def top_k_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradient of the logits from that of the gate weights."""
    experts = scope.values.rider(ROUTING, EXPERTS, Tensor)
    weights, grad = scope.values[ROUTING], scope.values[GRADIENT + ROUTING]
    return {
        operator.writes[0]: route_backward(scope.values[LOGITS], experts, weights, grad, None, _options(scope.layer))
    }
