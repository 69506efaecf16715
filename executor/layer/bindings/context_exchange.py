"""Keys and values of context-parallel ranks on their way to the queries, and their gradients on the way home.

Keys and values lie side by side, (T, W). By all-gather all come at once. By ring the operator begins the first hop;
attention sends on what it has received and computes meanwhile (`context_attention`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.executor.layer.bindings.heads import EXCHANGED
from meshwright.executor.layer.collectives import all_gather_rows, reduce_scatter_rows
from meshwright.executor.layer.hops import start_hop
from meshwright.executor.layer.scope import Binding, Scope

GATHERED, RING = "kv_ag", "kv_ring"
HOP = "hop"


def own_key_value(scope: Scope, names: tuple[str, ...]) -> Tensor:
    """This rank's keys and values side by side, (T, W), from the tensors that hold them."""
    if names == (EXCHANGED,):
        return scope.values[EXCHANGED][:, _query_width(scope) :]
    return torch.cat([scope.values[name].flatten(1) for name in names], 1)


def gather(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Keys and values of all ranks, one rank's behind the other's."""
    return {GATHERED: all_gather_rows(own_key_value(scope, operator.reads), scope.layer.groups.context)}


def scatter_gradients(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """What other ranks' queries add to the gradients of this rank's keys and values."""
    grad = reduce_scatter_rows(scope.values[operator.reads[0]], scope.layer.groups.context)
    return _home(operator, grad, scope)


def begin_ring(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """This rank's keys and values on their way to the next rank; those of the rank before arrive."""
    hop = start_hop(own_key_value(scope, operator.reads), scope.layer.groups.context)
    scope.values.ride(RING, HOP, hop)
    return {RING: hop.arriving}


def end_ring(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The last hop of the gradients: what the rank before holds in the end belongs to this one."""
    hop = start_hop(scope.values[operator.reads[0]], scope.layer.groups.context)
    return _home(operator, hop.wait(), scope)


def _query_width(scope: Scope) -> int:
    return scope.layer.shape.attended_heads * scope.layer.shape.head_dim


def _home(operator: Operator, grad_TW: Tensor, scope: Scope) -> dict[str, Tensor]:
    """Gradients in the shape of the tensors that hold keys and values."""
    if operator.writes == (f"{GRADIENT}{EXCHANGED}",):
        return {operator.writes[0]: F.pad(grad_TW, (_query_width(scope), 0))}
    shape = scope.layer.shape
    parts = grad_TW.split([shape.key_width, shape.value_width], 1)
    return dict(zip(operator.writes, parts, strict=True))


CONTEXT_EXCHANGES: dict[str, Binding] = {
    "all_gather.kv": gather,
    "reduce_scatter.grad_kv": scatter_gradients,
    "ring.kv": begin_ring,
    "ring.grad_kv": end_ring,
}
