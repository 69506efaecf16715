"""All tokens of the expert group to all its ranks; each takes its rows; outputs are summed and scattered back.

Source: MegaScale-MoE (arXiv 2505.11432), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.collectives import all_gather_rows, reduce_scatter_rows
from meshwright.executor.layer.routing import GATES, LAYOUT, GatherLayout
from meshwright.executor.layer.scope import Scope


def _layout(scope: Scope) -> GatherLayout:
    return scope.values.rider(ROUTING, LAYOUT, GatherLayout)


def gather_tokens(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Tokens (or gradients of outputs) of all ranks."""
    return {operator.writes[0]: all_gather_rows(scope.values[operator.reads[0]], scope.layer.groups.routed)}


def scatter_outputs(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Outputs summed over ranks, those of this rank's tokens."""
    return {operator.writes[0]: reduce_scatter_rows(scope.values[operator.reads[0]], scope.layer.groups.routed)}


def scatter_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of this rank's tokens and of their gate weights, summed over ranks."""
    source, (target, routing) = operator.reads[0], operator.writes
    ranks = scope.layer.groups.routed
    gates = scope.values.rider(source, GATES, Tensor)
    return {
        target: reduce_scatter_rows(scope.values[source], ranks),
        routing: reduce_scatter_rows(gates, ranks),
    }


def pick_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The rows of this rank's experts; their gate weights ride along."""
    layout = _layout(scope)
    scope.values.ride(operator.writes[0], GATES, layout.gates_R1)
    return {operator.writes[0]: scope.values[operator.reads[0]].index_select(0, layout.tokens_R)}


def pick_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Each row's gradient is that of its token."""
    return {operator.writes[0]: scope.values[operator.reads[0]].index_select(0, _layout(scope).tokens_R)}


def sum_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The rows added into all tokens' places."""
    return {operator.writes[0]: _added_up(scope.values[operator.reads[0]], scope)}


def sum_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The rows' gradients added into all tokens' places; those of the gate weights, (T, K), ride along."""
    source, target = operator.reads[0], operator.writes[0]
    gates = scope.values.rider(source, GATES, Tensor)
    slots, top_k = _layout(scope).slots_R, scope.layer.moe.top_k
    by_slot = gates.new_zeros(_num_tokens(scope) * top_k).scatter_(0, slots, gates.squeeze(1))
    scope.values.ride(target, GATES, by_slot.unflatten(0, (-1, top_k)))
    return {target: _added_up(scope.values[source], scope)}


def _num_tokens(scope: Scope) -> int:
    return int(scope.values[ROUTING].shape[0]) * scope.layer.groups.routed.size


def _added_up(rows_RH: Tensor, scope: Scope) -> Tensor:
    out = torch.zeros(_num_tokens(scope), rows_RH.shape[1], dtype=rows_RH.dtype, device=rows_RH.device)
    return out.index_add_(0, _layout(scope).tokens_R, rows_RH)
