"""Where the step goes, mean over the ranks of a replica: each term of the breakdown and how it comes about."""

from __future__ import annotations

from meshwright.costmodel.step import StepPrediction
from meshwright.costmodel.value import Value
from meshwright.planner.explain.formula_registry import (
    ATTENTION,
    GEMM,
    GROUPED_GEMM,
    MEMORY_BOUND,
    UPDATE,
    names,
)
from meshwright.planner.explain.formula_text import Formula

OPERATORS = "operators alone x layers x micro-batches"
ORDER = "computation waits for it in the operators' order"
HOW: dict[str, tuple[str, tuple[Formula, ...]]] = {
    "gemm": (OPERATORS, GEMM),
    "grouped_gemm": (OPERATORS, GROUPED_GEMM),
    "attention": (OPERATORS, ATTENTION),
    "memory_bound": (OPERATORS, MEMORY_BOUND),
    "recompute": ("operators run again in the backward", ()),
    "exposed_nvlink": (ORDER, ()),
    "exposed_network": (ORDER, ()),
    "exposed_pcie": ("copies that take longer than the pass", ()),
    "slowdown": ("interference of communication beside computation", ()),
    "host": ("launches that take longer than the GPU's work", ()),
    "optimizer": ("update of the device's shard", UPDATE),
    "exposed_data_parallel": ("step less the step without gathers and reductions", ()),
    "bubble": ("step less all other terms", ()),
}
"""By term of the breakdown: how its seconds come about, and the formulas of its operators."""


class TotalTerm(Value, frozen=True, kw_only=True):
    """One term of the breakdown; all of them add up to the step."""

    name: str
    time_s: float
    of_step: float
    how: str
    formulas: tuple[str, ...]


def total_terms(prediction: StepPrediction) -> tuple[TotalTerm, ...]:
    """The breakdown, the largest term first."""
    ranked = sorted(prediction.breakdown_s.items(), key=lambda item: -abs(item[1]))
    return tuple(
        TotalTerm(
            name=name,
            time_s=time_s,
            of_step=time_s / prediction.step_time_s,
            how=HOW[name][0],
            formulas=names(HOW[name][1]),
        )
        for name, time_s in ranked
    )
