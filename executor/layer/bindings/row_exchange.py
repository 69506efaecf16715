"""Rows to the ranks of their experts and back, by all-to-all; over ranks that share experts, gathered and summed.

Gate weights ride along in a message of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.bindings.wire import exchange_parts, is_packed
from meshwright.executor.layer.collectives import all_gather_rows, all_to_all_rows, reduce_scatter_rows
from meshwright.executor.layer.routing import GATES, LAYOUT, RowLayout
from meshwright.executor.layer.row_maps import ExchangedLayout
from meshwright.executor.layer.scope import Scope
from meshwright.kernels.permute import operator as kernel


def _layout(scope: Scope) -> RowLayout:
    return scope.values.rider(ROUTING, LAYOUT, RowLayout)


def _exchanged(scope: Scope) -> ExchangedLayout:
    return scope.values.rider(ROUTING, LAYOUT, ExchangedLayout)


def send_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Rows (or gradients of results) to the experts' ranks."""
    layout = _layout(scope)
    return _exchange(operator, scope, layout.received, layout.sent)


def return_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Results (or gradients of rows) back to the tokens' ranks."""
    layout = _layout(scope)
    return _exchange(operator, scope, layout.sent, layout.received)


def _exchange(operator: Operator, scope: Scope, received: list[int], sent: list[int]) -> dict[str, Tensor]:
    ranks = scope.layer.groups.expert
    return _with_gates(operator, scope, lambda rows: all_to_all_rows(rows, received, sent, ranks))


def sort_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Arrived rows, or gradients of results, in the order of this rank's experts."""
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


def gather_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The rows or copies (or gradients) that each of the ranks that share experts has received, in blocks."""
    block = _exchanged(scope).block
    return _with_gates(operator, scope, lambda rows: _all_blocks(rows, block, scope))


def _all_blocks(rows_RW: Tensor, block: int, scope: Scope) -> Tensor:
    missing = block - rows_RW.shape[0]
    return all_gather_rows(F.pad(rows_RW, (0, 0, 0, missing)) if missing else rows_RW, scope.layer.groups.expert_tensor)


def scatter_rows(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Parts of results (or of gradients of rows) summed over the ranks that share experts, for the own block.

    In FP8 the sum is yet to be taken.
    """
    num_rows, ranks, source = _exchanged(scope).num_arrived, scope.layer.groups.expert_tensor, operator.reads[0]
    if not is_packed(scope.values[source]):
        return _with_gates(operator, scope, lambda rows: reduce_scatter_rows(rows, ranks)[:num_rows])
    gates = scope.values.optional_rider(source, GATES)
    if gates is not None:
        scope.values.ride(operator.writes[0], GATES, reduce_scatter_rows(gates, ranks)[:num_rows])
    return exchange_parts(operator, scope, ranks, num_rows)


def _with_gates(operator: Operator, scope: Scope, move: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Rows moved, and the gate weights that ride along."""
    source, target = operator.reads[0], operator.writes[0]
    gates = scope.values.optional_rider(source, GATES)
    if gates is not None:
        scope.values.ride(target, GATES, move(gates))
    return {target: move(scope.values[source])}
