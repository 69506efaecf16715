"""Rows sorted by expert and summed back, all experts being here. Sums over a token's rows take no atomics: each token
picks up its rows, so that results are the same in every run.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.routing import GATES, LAYOUT, LocalLayout, RowLayout, SortedSlots
from meshwright.executor.layer.scope import Scope


def sorted_slots(scope: Scope) -> SortedSlots:
    """The order of this rank's slots by expert."""
    layout = scope.values.rider(ROUTING, LAYOUT, object)
    if not isinstance(layout, LocalLayout | RowLayout):
        raise TypeError(f"rows are laid out by {type(layout).__name__}, expected by slots")
    return layout.sorted


def permute(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """A row for each slot, in the order of experts; its gate weight rides along."""
    slots, weights = sorted_slots(scope), scope.values[ROUTING]
    target = operator.writes[0]
    rows = scope.values[operator.reads[0]].index_select(0, slots.slots_R // weights.shape[1])
    scope.values.ride(target, GATES, weights.flatten().index_select(0, slots.slots_R).unsqueeze(1))
    return {target: rows}


def permute_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of the gradients of each token's rows; each slot's gate weight gets its own."""
    slots, source = sorted_slots(scope), operator.reads[0]
    written = {operator.writes[0]: _gathered(scope.values[source], slots).sum(1)}
    if scope.layer.setting.gate_before_fc2:
        gates = scope.values.rider(source, GATES, Tensor)
        written[f"{GRADIENT}{ROUTING}"] = _gathered(gates, slots).squeeze(-1)
    return written


def unpermute(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of each token's rows, weighted if their gate weights have not been applied."""
    rows = _gathered(scope.values[operator.reads[0]], sorted_slots(scope))
    if not scope.layer.setting.gate_before_fc2:
        rows = rows * scope.values[ROUTING].unsqueeze(-1).to(rows.dtype)
    return {operator.writes[0]: rows.sum(1)}


def unpermute_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Each row gets its token's gradient, weighted if that is how rows were summed."""
    slots, weights, grad = sorted_slots(scope), scope.values[ROUTING], scope.values[operator.reads[0]]
    rows = grad.index_select(0, slots.slots_R // weights.shape[1])
    target = operator.writes[0]
    if scope.layer.setting.gate_before_fc2:
        return {target: rows}
    wide = statistics_type(rows.dtype)
    products = (rows.to(wide) * scope.values[operator.reads[2]].to(wide)).sum(-1, keepdim=True)
    gates = weights.flatten().index_select(0, slots.slots_R).unsqueeze(1)
    grad_weights = _gathered(products, slots).squeeze(-1)
    return {target: rows * gates.to(rows.dtype), f"{GRADIENT}{ROUTING}": grad_weights}


def _gathered(rows_RW: Tensor, slots: SortedSlots) -> Tensor:
    """The rows of each token, (T, K, W)."""
    places = slots.places_TK
    by_token: Tensor = rows_RW.index_select(0, places.flatten()).unflatten(0, places.shape)
    return by_token
