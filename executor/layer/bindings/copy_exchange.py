"""A copy of each token to every rank that has experts of it, expanded there; results are summed there and come back.

Over several nodes a copy crosses the network once for each node and is forwarded inside; on the way back a node sums.
Source: DeepEP (github.com/deepseek-ai/DeepEP), normal kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.bindings.wire import COPIES, is_packed
from meshwright.executor.layer.collectives import all_to_all_rows
from meshwright.executor.layer.copies import CopyLayout, Hop, of_choices
from meshwright.executor.layer.routing import GATES, LAYOUT
from meshwright.executor.layer.scope import Scope
from meshwright.kernels.permute import operator as kernel


def _layout(scope: Scope) -> CopyLayout:
    return scope.values.rider(ROUTING, LAYOUT, CopyLayout)


def _first_hop(scope: Scope) -> Hop:
    return next(iter(_layout(scope).hops.values()))


def _hop(operator: Operator, scope: Scope) -> Hop:
    """The hop of an operator: the only one, or that by whose name the operator's ends."""
    hops = _layout(scope).hops
    return hops[""] if "" in hops else hops[operator.name.rpartition(".")[2]]


def copy_tokens(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """A copy of each token, or of the gradient of its output, for every holder."""
    return {operator.writes[0]: kernel.permute(scope.values[operator.reads[0]], _first_hop(scope).rowmap).rows_PH}


def sum_copies(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of each token's copies."""
    return {operator.writes[0]: kernel.unpermute(scope.values[operator.reads[0]], _first_hop(scope).rowmap)}


def sum_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of the gradients of each token's copies; each choice's gate weight gets its own."""
    source, hop = operator.reads[0], _first_hop(scope)
    return {
        operator.writes[0]: kernel.unpermute(scope.values[source], hop.rowmap),
        f"{GRADIENT}{ROUTING}": of_choices(scope.values.rider(source, GATES, Tensor), hop),
    }


def send_copies(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Copies to their holders; what came over the network is copied again for the ranks here."""
    hop, rows = _hop(operator, scope), scope.values[operator.reads[0]]
    if hop is not _first_hop(scope):
        rows = _copied(rows, hop)
    return {operator.writes[0]: all_to_all_rows(rows, hop.received, hop.sent, hop.ranks)}


def _copied(rows_NW: Tensor, hop: Hop) -> Tensor:
    """Copies of rows, which may be bytes: kernels move pairs of these."""
    if not is_packed(rows_NW):
        return kernel.permute(rows_NW, hop.rowmap).rows_PH
    return kernel.permute(rows_NW.view(torch.bfloat16), hop.rowmap).rows_PH.view(rows_NW.dtype)


def return_copies(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Results, or gradients with those of gate weights, back to where copies came from, and summed for the network.

    In FP8 the sum is yet to be taken.
    """
    source, target, hop = operator.reads[0], operator.writes[0], _hop(operator, scope)
    forwards = hop is not _first_hop(scope)
    rows = all_to_all_rows(scope.values[source], hop.sent, hop.received, hop.ranks)
    gates = scope.values.optional_rider(source, GATES)
    if gates is not None:
        gates = all_to_all_rows(gates, hop.sent, hop.received, hop.ranks)
        scope.values.ride(target, GATES, of_choices(gates, hop) if forwards else gates)
    if forwards and is_packed(rows):
        scope.values.ride(target, COPIES, hop.rowmap)
        return {target: rows}
    return {target: kernel.unpermute(rows, hop.rowmap) if forwards else rows}


def expand(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """A row for each expert here of each copy, in the order of experts; its gate weight rides along, (R, 1)."""
    layout, target = _layout(scope), operator.writes[0]
    permuted = kernel.permute(scope.values[operator.reads[0]], layout.rowmap, layout.gates_NK)
    assert permuted.gates_P is not None  # weights were given
    scope.values.ride(target, GATES, permuted.gates_P.unsqueeze(1))
    return {target: permuted.rows_PH}


def expand_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Each row's gradient is that of its copy's sum."""
    grad = scope.values[operator.reads[0]]
    return {operator.writes[0]: kernel.unpermute_backward(grad, None, _layout(scope).rowmap).rows_PH}


def sum_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of the results of each copy's experts here."""
    return {operator.writes[0]: kernel.unpermute(scope.values[operator.reads[0]], _layout(scope).rowmap)}


def sum_row_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of the gradients of each copy's rows; those of gate weights ride along, (N, K), 0 elsewhere."""
    source, target = operator.reads[0], operator.writes[0]
    gates = scope.values.rider(source, GATES, Tensor).squeeze(1)
    gradients = kernel.permute_backward(scope.values[source], _layout(scope).rowmap, gates)
    assert gradients.weights_TK is not None  # gates were given
    scope.values.ride(target, GATES, gradients.weights_TK)
    return {target: gradients.tokens_TH}
