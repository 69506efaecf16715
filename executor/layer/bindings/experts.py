"""Grouped products of the routed experts of a rank."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.program.operators import Operator, Pass
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.functions.grouped import (
    group_bias,
    group_of_rows,
    grouped_dgrad,
    grouped_forward,
    grouped_wgrad,
)
from meshwright.executor.layer.routing import GATES, LAYOUT
from meshwright.executor.layer.row_maps import Layout
from meshwright.executor.layer.scope import Binding, Scope, forward_name

FC2 = "experts_fc2"


def grouped_binding(operator: Operator) -> Binding:
    """The binding of a grouped product."""
    return {Pass.FORWARD: experts_forward, Pass.DGRAD: experts_dgrad, Pass.WGRAD: experts_wgrad}[operator.phase]


def experts_forward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """All experts' rows times their matrices."""
    name, rows = forward_name(operator), scope.values[operator.reads[0]]
    offsets = _offsets(scope)
    out = grouped_forward(rows, scope.parameters[name], offsets)
    bias = scope.parameters.get(f"{name}.bias")
    if bias is not None and _adds_bias(name, scope):
        out = out + _weighted_bias(name, group_bias(bias, offsets, rows.shape[0]), scope)
    return dict(zip(operator.writes, out.chunk(len(operator.writes), -1), strict=True))


def _adds_bias(name: str, scope: Scope) -> bool:
    """Of ranks that share experts, whose results of FC2 are summed, the first alone adds the bias."""
    return name != FC2 or scope.layer.groups.expert_tensor.rank == 0


def _weighted_bias(name: str, bias_RO: Tensor, scope: Scope) -> Tensor:
    """Where the gate weight has already multiplied the input of FC2, its bias must be multiplied, too."""
    if name != FC2 or not scope.layer.setting.gate_before_fc2:
        return bias_RO
    return bias_RO * scope.values.rider("ffn_in", GATES, Tensor).to(bias_RO.dtype)


def experts_dgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of the rows; the part of the gate weights' gradient that comes from the bias of FC2 rides along."""
    grad, name = scope.values.joined(operator.reads), forward_name(operator)
    bias = scope.parameters.get(f"{name}.bias")
    if bias is not None and name == FC2 and _adds_bias(name, scope):
        through_bias = grad * group_bias(bias, _offsets(scope), grad.shape[0])
        scope.values.ride(operator.writes[0], GATES, through_bias.sum(-1, keepdim=True))
    return {operator.writes[0]: grouped_dgrad(grad, scope.parameters[name], _offsets(scope))}


def experts_wgrad(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of the matrices."""
    source, *gradients = operator.reads
    name, grad = forward_name(operator), scope.values.joined(tuple(gradients))
    scope.parameters.add_gradient(name, grouped_wgrad(grad, scope.values[source], _offsets(scope)))
    bias = scope.parameters.get(f"{name}.bias")
    if bias is not None:
        groups = group_of_rows(_offsets(scope), grad.shape[0])
        gradient = F.pad(torch.zeros_like(bias), (0, 0, 0, 1))  # the last takes what stands behind the groups
        if _adds_bias(name, scope):
            gradient.index_add_(0, groups, _weighted_bias(name, grad, scope))
        scope.parameters.add_gradient(f"{name}.bias", gradient[:-1])
    return {}


def _offsets(scope: Scope) -> Tensor:
    return scope.values.rider(ROUTING, LAYOUT, Layout).offsets_E
