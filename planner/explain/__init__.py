"""Where every figure of a plan comes from, what another choice would do, how two plans differ, what is worth buying.

    formula_text, formula_registry, routing, citations   equation and source of a formula, read from the formula itself
    operators, exposure, state, parts, messages          layers and ends of the model: passes, communication, state
    critical_path, stages, totals, assumptions           the step: the path that decides it, memory, where time goes
    explanation                                          all of it for one plan
    choices, held_choice, why_not                        what a choice that the plan did not make breaks or costs
    difference                                           two configurations, term by term
    resources, marginal, search_objective                what a little more of a resource would save
    describe_*, marks, plain                             all of these as sections of a report, and as JSON

Everything here is computed by the cost model's own functions; the sums are held against the prediction by tests.
"""

from __future__ import annotations

from meshwright.planner.explain.difference import Difference, diff_plans
from meshwright.planner.explain.explanation import Explanation, explain, selected
from meshwright.planner.explain.marginal import Marginal, marginal_values
from meshwright.planner.explain.why_not import WhyNot, why_not

__all__ = [
    "Difference",
    "Explanation",
    "Marginal",
    "WhyNot",
    "diff_plans",
    "explain",
    "marginal_values",
    "selected",
    "why_not",
]
