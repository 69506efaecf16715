"""Rows to the ranks of their experts and back, by all-to-all. Gate weights ride along in a message of their own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.collectives import all_to_all_rows
from meshwright.executor.layer.routing import GATES, LAYOUT, RowLayout
from meshwright.executor.layer.scope import Scope


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
    return _reordered(operator, scope, _layout(scope).arrived_R)


def unsort_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Results, or gradients of rows, in the order in which their rows arrived."""
    return _reordered(operator, scope, _layout(scope).home_R)


def _reordered(operator: Operator, scope: Scope, order_R: Tensor) -> dict[str, Tensor]:
    source, target = operator.reads[0], operator.writes[0]
    gates = scope.values.optional_rider(source, GATES)
    if gates is not None:
        scope.values.ride(target, GATES, gates.index_select(0, order_R))
    return {target: scope.values[source].index_select(0, order_R)}
