"""Which formulas decide how many rows an operator behind the router has."""

from __future__ import annotations

from meshwright.costmodel.program.operators import Axis, Collective, CollectiveWork, GroupedGemmWork, Operator
from meshwright.costmodel.strategy import Dispatch, LayerStrategy
from meshwright.costmodel.workload import Workload
from meshwright.planner.explain.formula_registry import DISTINCT_HOLDERS, IMBALANCE, KNOWN_LOAD
from meshwright.planner.explain.formula_text import Formula


def routing_formulas(operator: Operator, strategy: LayerStrategy, workload: Workload) -> tuple[Formula, ...]:
    """The imbalance of ranks, for experts and all-to-all; for deduplicated dispatch how many ranks a token goes to."""
    work, uneven = operator.work, _imbalance(strategy, workload)
    if isinstance(work, GroupedGemmWork):
        return uneven
    if operator.axis is Axis.EXPERT and isinstance(work, CollectiveWork) and work.collective is Collective.ALL_TO_ALL:
        once_a_rank = strategy.dispatch is Dispatch.ALL_TO_ALL_DEDUP
        return (*DISTINCT_HOLDERS, *uneven) if once_a_rank else uneven
    return ()


def _imbalance(strategy: LayerStrategy, workload: Workload) -> tuple[Formula, ...]:
    if strategy.ep == 1:
        return ()
    return IMBALANCE if workload.routes_evenly else (*IMBALANCE, *KNOWN_LOAD)
