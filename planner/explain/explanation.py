"""A plan's prediction taken apart into every term it is made of, each with value, formula and source."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.costmodel.value import Value
from meshwright.planner.explain.assumptions import Assumption, assumptions
from meshwright.planner.explain.citations import CitedFigure
from meshwright.planner.explain.critical_path import StepPath, step_path
from meshwright.planner.explain.formula_registry import known_formulas
from meshwright.planner.explain.formula_text import FormulaText
from meshwright.planner.explain.messages import MessageTerm, message_terms
from meshwright.planner.explain.parts import PartTerm, part_terms
from meshwright.planner.explain.stages import StageTerm, stage_terms
from meshwright.planner.explain.totals import TotalTerm, total_terms
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of, plan_warnings


class Explanation(Value, frozen=True, kw_only=True):
    """Every term of one plan's prediction.

    `path` is the longest path through the step, `totals` where the time goes in the mean over ranks, `parts` the kinds
    of layers with their operators, `stages` the devices of the pipeline with their memory, `messages` what passes
    between them. `formulas` and `cites` are what rows name. `warnings`: what has changed since the plan was made.
    """

    model: str
    num_gpus: int
    num_stages: int
    num_micro_batches: int
    prediction: StepPrediction
    path: StepPath
    totals: tuple[TotalTerm, ...]
    parts: tuple[PartTerm, ...]
    stages: tuple[StageTerm, ...]
    messages: tuple[MessageTerm, ...]
    assumptions: tuple[Assumption, ...]
    formulas: dict[str, FormulaText]
    cites: dict[str, CitedFigure]
    warnings: tuple[str, ...]


def explain(plan: Plan) -> Explanation:
    """Every term of a plan's prediction, as it is predicted today."""
    configuration = configuration_of(plan)
    prediction, parts = predict(configuration), part_terms(configuration)
    return Explanation(
        model=configuration.model.name,
        num_gpus=configuration.cluster.num_gpus,
        num_stages=configuration.mesh.pp,
        num_micro_batches=configuration.num_micro_batches,
        prediction=prediction,
        path=step_path(configuration),
        totals=total_terms(prediction),
        parts=parts,
        stages=stage_terms(configuration, parts),
        messages=message_terms(configuration),
        assumptions=assumptions(configuration),
        formulas=known_formulas(),
        cites={cited.name: cited for part in parts for cited in part.cites},
        warnings=plan_warnings(plan),
    )


def selected(explanation: Explanation, *, layer: int | None, stage: int | None) -> Explanation:
    """Only the part that a layer is, or that a pipeline stage has, and only that stage.

    Raises `InputError` where there is no such layer or stage.
    """
    if layer is not None:
        _check("--layer", layer, 1 + max(number for part in explanation.parts for number in part.layers))
        parts = tuple(part for part in explanation.parts if layer in part.layers)
        return msgspec.structs.replace(explanation, parts=parts, stages=())
    if stage is not None:
        _check("--stage", stage, explanation.num_stages)
        return msgspec.structs.replace(explanation, stages=(explanation.stages[stage],))
    return explanation


def _check(option: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise InputError(option, "", f"{number} is not one of the {count} there are; expected 0 to {count - 1}")
