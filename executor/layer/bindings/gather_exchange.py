"""All tokens of the expert group to all its ranks; each takes its rows; outputs are summed and scattered back.

Source: MegaScale-MoE (arXiv 2505.11432), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.bindings.wire import exchange_parts
from meshwright.executor.layer.collectives import all_gather_rows, reduce_scatter_rows
from meshwright.executor.layer.routing import GATES, LAYOUT, GatherLayout
from meshwright.executor.layer.scope import Scope
from meshwright.kernels.permute import operator as kernel


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


def scatter_parts(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Each rank's part of outputs, or of gradients with those of gate weights, which are summed here: in FP8."""
    source, target = operator.reads[0], operator.writes[0]
    ranks, gates = scope.layer.groups.routed, scope.values.optional_rider(source, GATES)
    if gates is not None:
        scope.values.ride(target, GATES, reduce_scatter_rows(gates, ranks))
    return exchange_parts(operator, scope, ranks)


def pick_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The rows of this rank's experts; their gate weights ride along, (R, 1)."""
    layout, target = _layout(scope), operator.writes[0]
    picked = kernel.permute(scope.values[operator.reads[0]], layout.rowmap, layout.weights_TK)
    assert picked.gates_P is not None
    scope.values.ride(target, GATES, picked.gates_P.unsqueeze(1))
    return {target: picked.rows_PH}


def pick_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Each row's gradient is that of its token."""
    grad, rowmap = scope.values[operator.reads[0]], _layout(scope).rowmap
    return {operator.writes[0]: kernel.unpermute_backward(grad, None, rowmap).rows_PH}


def sum_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of the rows that each of all tokens has here."""
    return {operator.writes[0]: kernel.unpermute(scope.values[operator.reads[0]], _layout(scope).rowmap)}


def sum_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The sum of the gradients of each token's rows here; those of the gate weights, (T, K), ride along."""
    source, target = operator.reads[0], operator.writes[0]
    gates = scope.values.rider(source, GATES, Tensor).squeeze(1)
    found = kernel.permute_backward(scope.values[source], _layout(scope).rowmap, gates)
    scope.values.ride(target, GATES, found.weights_TK)
    return {target: found.tokens_TH}
