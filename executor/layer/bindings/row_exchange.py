"""Rows to the ranks of their experts and back, by all-to-all. Gate weights ride along in a message of their own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.collectives import all_to_all_rows
from meshwright.executor.layer.routing import GATES, LAYOUT, RowLayout
from meshwright.executor.layer.scope import Scope
from meshwright.kernels.permute import operator as kernel


def _layout(scope: Scope) -> RowLayout:
    return scope.values.rider(ROUTING, LAYOUT, RowLayout)


def send_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Rows (or gradients of results) to the experts' ranks."""
    layout = _layout(scope)
    return _exchange(operator, scope, layout.received, layout.sent)


def return_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Results (or gradients of rows) back to the tokens' ranks."""
    layout = _layout(scope)
    return _exchange(operator, scope, layout.sent, layout.received)


def _exchange(operator: Operator, scope: Scope, received: list[int], sent: list[int]) -> dict[str, Tensor]:
    source, target, ranks = operator.reads[0], operator.writes[0], scope.layer.groups.expert
    rows = all_to_all_rows(scope.values[source], received, sent, ranks)
    gates = scope.values.optional_rider(source, GATES)
    if gates is not None:
        scope.values.ride(target, GATES, all_to_all_rows(gates, received, sent, ranks))
    return {target: rows}


def sort_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Received rows, or gradients of results, in the order of this rank's experts."""
    source, target = operator.reads[0], operator.writes[0]
    gates = scope.values.optional_rider(source, GATES)
    sorted_rows = kernel.permute(scope.values[source], _layout(scope).arrived, gates)
    if sorted_rows.gates_P is not None:
        scope.values.ride(target, GATES, sorted_rows.gates_P.unsqueeze(1))
    return {target: sorted_rows.rows_PH}


def unsort_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Results, or gradients of rows, in the order in which their rows arrived."""
    source, target = operator.reads[0], operator.writes[0]
    gates = scope.values.optional_rider(source, GATES)
    found = kernel.permute_backward(
        scope.values[source], _layout(scope).arrived, None if gates is None else gates.squeeze(1)
    )
    if found.weights_TK is not None:
        scope.values.ride(target, GATES, found.weights_TK)
    return {target: found.tokens_TH}
