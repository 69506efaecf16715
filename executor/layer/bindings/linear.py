"""Dense products: y = x W^T + b, dx = dy W, dW = dy^T x. Parts of a joint product are columns of one buffer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.program.operators import Operator, Pass
from meshwright.executor.layer.bindings.latent import is_latent_up, latent_up, latent_up_dgrad, latent_up_wgrad
from meshwright.executor.layer.bindings.router import is_router, router_dgrad, router_forward, router_wgrad
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.scope import Binding, Scope, forward_name

ROW_SPLIT = {"attn_projection": "tensor", "fc2": "ffn", "shared_fc2": "ffn"}
"""Products whose ranks hold partial sums, with their ranks: the bias is added once, by the first."""


def dense_binding(operator: Operator) -> Binding:
    """The binding of a dense product."""
    if is_router(operator):
        return _of_phase(operator, router_forward, router_dgrad, router_wgrad)
    if is_latent_up(operator):
        return _of_phase(operator, latent_up, latent_up_dgrad, latent_up_wgrad)
    return _of_phase(operator, linear, linear_dgrad, linear_wgrad)


def _of_phase(operator: Operator, forward: Binding, dgrad: Binding, wgrad: Binding) -> Binding:
    return {Pass.FORWARD: forward, Pass.DGRAD: dgrad, Pass.WGRAD: wgrad}[operator.phase]


def linear(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """One product, its columns split into what the operator writes."""
    name = forward_name(operator)
    bias = scope.parameters.get(f"{name}.bias") if adds_bias(name, scope) else None
    out = F.linear(scope.values[operator.reads[0]].flatten(1), scope.parameters[name], bias)
    parts = out.split(part_widths(operator.writes, out.shape[1], scope), 1)
    return dict(zip(operator.writes, parts, strict=True))


def linear_dgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradient of the input."""
    grad = scope.values.joined(operator.reads)
    return {operator.writes[0]: grad @ scope.parameters[forward_name(operator)]}


def linear_wgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of the matrix and of its bias."""
    source, *gradients = operator.reads
    grad = scope.values.joined(tuple(gradients))
    name = forward_name(operator)
    scope.parameters.add_product(name, grad.t(), scope.values[source].flatten(1))
    bias = scope.parameters.get(f"{name}.bias")
    if bias is not None:
        gradient = grad.sum(0) if adds_bias(name, scope) else torch.zeros_like(bias)
        scope.parameters.add_gradient(f"{name}.bias", gradient)
    return {}


def adds_bias(name: str, scope: Scope) -> bool:
    """Whether this rank adds the bias: of ranks whose partial sums are added up, only the first."""
    ranks: Communicator = getattr(scope.layer.groups, ROW_SPLIT[name]) if name in ROW_SPLIT else Communicator()
    return ranks.rank == 0


def part_widths(names: tuple[str, ...], width: int, scope: Scope) -> list[int]:
    """Widths of the parts of a product's output: of heads as their counts say, otherwise even."""
    shape = scope.layer.shape
    heads = {"q": shape.query_width, "k": shape.key_width, "v": shape.value_width}
    if len(names) > 1 and heads.keys() >= set(names):
        return [heads[name] for name in names]
    return [width // len(names)] * len(names)
