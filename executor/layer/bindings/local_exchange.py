"""Rows sorted by expert and summed back, all experts being here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.routing import GATES, LAYOUT, LocalLayout, RowLayout
from meshwright.executor.layer.scope import Scope
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.permute import operator as kernel


def rowmap_of(scope: Scope) -> RowMap:
    """Where this rank's slots stand in the order of experts. Groups are not filled up: every row is a slot's."""
    layout = scope.values.rider(ROUTING, LAYOUT, object)
    if not isinstance(layout, LocalLayout | RowLayout):
        raise TypeError(f"rows are laid out by {type(layout).__name__}, expected by slots")
    return layout.rowmap


def permute(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """A row for each slot, in the order of experts; its gate weight rides along, (R, 1)."""
    target = operator.writes[0]
    permuted = kernel.permute(scope.values[operator.reads[0]], rowmap_of(scope), scope.values[ROUTING])
    if permuted.gates_P is not None:
        scope.values.ride(target, GATES, permuted.gates_P.unsqueeze(1))
    return {target: permuted.rows_PH}


def permute_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of the gradients of each token's rows; each slot's gate weight gets its own."""
    source = operator.reads[0]
    gated = scope.layer.setting.gate_before_fc2
    gates = scope.values.rider(source, GATES, Tensor).squeeze(1) if gated else None
    gradients = kernel.permute_backward(scope.values[source], rowmap_of(scope), gates)
    written = {operator.writes[0]: gradients.tokens_TH}
    if gradients.weights_TK is not None:
        written[f"{GRADIENT}{ROUTING}"] = gradients.weights_TK
    return written


def unpermute(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of each token's rows, weighted if their gate weights have not been applied."""
    rows = scope.values[operator.reads[0]]
    return {operator.writes[0]: kernel.unpermute(rows, rowmap_of(scope), _weights_behind(scope))}


def unpermute_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Each row gets its token's gradient, weighted if that is how rows were summed."""
    weights = _weights_behind(scope)
    rows = None if weights is None else scope.values[operator.reads[2]]
    gradients = kernel.unpermute_backward(scope.values[operator.reads[0]], rows, rowmap_of(scope), weights)
    written = {operator.writes[0]: gradients.rows_PH}
    if gradients.weights_TK is not None:
        written[f"{GRADIENT}{ROUTING}"] = gradients.weights_TK
    return written


def _weights_behind(scope: Scope) -> Tensor | None:
    """Gate weights that are applied behind FC2, if they are."""
    return None if scope.layer.setting.gate_before_fc2 else scope.values[ROUTING]
