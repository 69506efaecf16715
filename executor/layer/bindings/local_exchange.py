"""Rows sorted by expert and summed back, all experts being here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.functions.permutation import (
    by_token,
    slot_weights,
    sorted_rows,
    summed_rows,
    token_gradients,
)
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
    slots, target = sorted_slots(scope), operator.writes[0]
    rows, gates = sorted_rows(scope.values[operator.reads[0]], scope.values[ROUTING], slots.slots_R)
    scope.values.ride(target, GATES, gates)
    return {target: rows}


def permute_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of the gradients of each token's rows; each slot's gate weight gets its own."""
    places, source = sorted_slots(scope).places_TK, operator.reads[0]
    written = {operator.writes[0]: summed_rows(scope.values[source], places)}
    if scope.layer.setting.gate_before_fc2:
        gates = scope.values.rider(source, GATES, Tensor)
        written[f"{GRADIENT}{ROUTING}"] = by_token(gates, places).squeeze(-1)
    return written


def unpermute(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of each token's rows, weighted if their gate weights have not been applied."""
    rows, places = scope.values[operator.reads[0]], sorted_slots(scope).places_TK
    if scope.layer.setting.gate_before_fc2:
        return {operator.writes[0]: summed_rows(rows, places)}
    weighted = by_token(rows, places) * scope.values[ROUTING].unsqueeze(-1).to(rows.dtype)
    return {operator.writes[0]: weighted.sum(1)}


def unpermute_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Each row gets its token's gradient, weighted if that is how rows were summed."""
    slots, weights, grad = sorted_slots(scope), scope.values[ROUTING], scope.values[operator.reads[0]]
    rows = token_gradients(grad, slots.slots_R, weights.shape[1])
    target = operator.writes[0]
    if scope.layer.setting.gate_before_fc2:
        return {target: rows}
    wide = statistics_type(rows.dtype)
    products = (rows.to(wide) * scope.values[operator.reads[2]].to(wide)).sum(-1, keepdim=True)
    gates = slot_weights(weights, slots.slots_R)
    grad_weights = by_token(products, slots.places_TK).squeeze(-1)
    return {target: rows * gates.to(rows.dtype), f"{GRADIENT}{ROUTING}": grad_weights}
