"""Collectives around tensor-parallel regions: gather what enters, sum what leaves, in either pass."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import Collective, CollectiveWork, Operator
from meshwright.executor.layer.bindings.wire import exchange_parts
from meshwright.executor.layer.collectives import all_gather_rows, all_reduce, reduce_scatter_rows
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.scope import Scope

COLLECTIVES = {
    Collective.ALL_GATHER: all_gather_rows,
    Collective.REDUCE_SCATTER: reduce_scatter_rows,
    Collective.ALL_REDUCE: all_reduce,
}
ATTENTION = "attention"


def exchange(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The operator's collective over the ranks of its region."""
    assert isinstance(operator.work, CollectiveWork)
    if operator.work.collective is Collective.ALL_TO_ALL:  # a sum whose parts travel in FP8
        return exchange_parts(operator, scope, _ranks(operator, scope))
    collective = COLLECTIVES[operator.work.collective]
    return {operator.writes[0]: collective(scope.values[operator.reads[0]], _ranks(operator, scope))}


def _ranks(operator: Operator, scope: Scope) -> Communicator:
    return scope.layer.groups.tensor if operator.module == ATTENTION else scope.layer.groups.ffn
