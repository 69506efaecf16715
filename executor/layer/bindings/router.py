"""The router: logits in float32, the choice of experts and their weights, and the layout of the rows that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.capacity import sequence_capacity, within_capacity
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.functions.gate_weights import weigh
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.router_losses import (
    LOAD,
    LossScope,
    device_load,
    even_backward,
    scores_of_sequences,
    sequence_load,
    z_backward,
    z_loss,
)
from meshwright.executor.layer.routing import EXPERTS, LAYOUT, WEIGHTS, plan_layout
from meshwright.executor.layer.row_maps import balanced_experts
from meshwright.executor.layer.scope import Scope, forward_name
from meshwright.executor.layer.sequence_counts import SequenceCounts, count_by_sequence
from meshwright.kernels.route.contract import Routed, RouteOptions
from meshwright.kernels.route.operator import route, route_backward

ROUTER = "router"
ROUTING = "routing"
LOGITS = "router_logits"
CORRECTION = f"{ROUTER}.correction"
REPORT = "report"
EVEN_GRADIENT = "even_gradient"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingReport:
    """What routing a micro-batch adds to the figures of a step, on the device.

    experts_TK: the choices of this rank's tokens, of `num_experts`. even, z: their parts of the losses, None where
    there is no such loss. dropped: choices beyond the capacity, None where there is none.
    """

    num_experts: int
    experts_TK: Tensor
    even: Tensor | None = None
    z: Tensor | None = None
    dropped: Tensor | None = None


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
    layer, logits = scope.layer, scope.values[operator.reads[0]]
    routed = _routed(scope, logits)
    experts, weights = routed.experts_TK, routed.weights_TK
    drops = layer.drops_tokens
    counts = _counts(experts, scope) if layer.router_losses.counts_sequences or drops else None
    kept = _kept(experts, counts, layer) if drops and counts is not None else None
    placed = experts if kept is None else experts.masked_fill(~kept, layer.moe.num_experts)
    scope.values.ride(ROUTING, WEIGHTS, weights)
    scope.values.ride(ROUTING, EXPERTS, experts)
    scope.values.ride(ROUTING, LAYOUT, plan_layout(placed, weights, layer, scope.host))
    report = RoutingReport(
        num_experts=layer.moe.num_experts,
        experts_TK=experts,
        even=_even_loss(scope, routed, counts) if layer.router_losses.even else None,
        z=z_loss(logits) * (layer.router_losses.z * layer.token_weight) if layer.router_losses.z else None,
        dropped=None if kept is None else (~kept).sum(),
    )
    scope.values.ride(ROUTING, REPORT, report)
    return {ROUTING: weights}


def _counts(experts_TK: Tensor, scope: Scope) -> SequenceCounts:
    layer = scope.layer
    with scope.host.exchange(layer.groups.replica):
        return count_by_sequence(
            experts_TK,
            layer.moe.num_experts,
            layer.setting.micro_batch,
            layer.groups.replica,
            layer.groups.context.size,
        )


def _kept(experts_TK: Tensor, counts: SequenceCounts, layer: LayerContext) -> Tensor:
    capacity = sequence_capacity(layer.capacity_factor, layer.moe, layer.setting.seq_len)
    return within_capacity(experts_TK, counts, capacity)


def _even_loss(scope: Scope, routed: Routed, counts: SequenceCounts | None) -> Tensor:
    """This rank's part of the loss of even loads; the gradient of its tokens' scores rides along, (B, E) or (1, E)."""
    layer, logits = scope.layer, scope.values[LOGITS]
    if counts is None or not layer.router_losses.counts_sequences:
        load = scope.parameters[LOAD].to(logits.dtype).unsqueeze(0)
    else:
        load = sequence_load(counts.whole_BE, layer.moe, layer.setting.seq_len, logits.dtype)
    if layer.router_losses.scope is LossScope.PER_DEVICE:
        load = device_load(load, layer.groups.expert.size)
    gradient = load * (layer.router_losses.even * layer.token_weight)
    scope.values.ride(ROUTING, EVEN_GRADIENT, gradient)
    one_for_all = len(gradient) == 1
    scores = routed.sums_E if one_for_all else scores_of_sequences(logits, layer.moe.score, len(gradient))
    return (gradient * scores).sum()


def _routed(scope: Scope, logits_TE: Tensor) -> Routed:
    """The experts of each token (int32) and their weights, (T, K)."""
    layer, choice = scope.layer, scope.layer.routing
    if not choice.balanced:
        correction = scope.parameters.get(CORRECTION)
        bias = None if correction is None else correction.to(logits_TE.dtype)
        return route(logits_TE, _options(layer), bias, sums=layer.router_losses.even > 0)
    experts, numbers = _in_turn(logits_TE.shape[0], layer.moe.num_experts, layer.moe.top_k, layer.device)
    weights = weigh(logits_TE, numbers, layer.moe.score, normalize=choice.normalize, scale=choice.scale)
    none = logits_TE.new_empty(0)
    return Routed(experts_TK=experts, weights_TK=weights, counts_E=none, sums_E=none)


@lru_cache(maxsize=8)
def _in_turn(num_tokens: int, num_experts: int, top_k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Balanced experts, which are the same every time, as int32 and as int64."""
    numbers = balanced_experts(num_tokens, num_experts, top_k, device)
    return numbers.to(torch.int32), numbers


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
    """Gradient of the logits from that of the gate weights, and from the losses of the router."""
    layer, values = scope.layer, scope.values
    experts, logits = values.rider(ROUTING, EXPERTS, Tensor), values[LOGITS]
    weights, grad = values[ROUTING], values[GRADIENT + ROUTING]
    even = values.optional_rider(ROUTING, EVEN_GRADIENT)
    in_kernel = even[0] if even is not None and len(even) == 1 else None
    out = route_backward(logits, experts, weights, grad, in_kernel, _options(layer))
    if even is not None and in_kernel is None:
        out = out + even_backward(logits, even, layer.moe.score)
    if layer.router_losses.z:
        out = out + z_backward(logits) * (layer.router_losses.z * layer.token_weight)
    return {operator.writes[0]: out}
