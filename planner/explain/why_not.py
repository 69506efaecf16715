"""Why a plan did not choose otherwise: what the choice breaks, or what the best plan that has it loses."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InfeasibleError, InputError, StrategyError
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.costmodel.value import Value
from meshwright.planner.check_fixes import check_fixes
from meshwright.planner.explain.choices import asked, is_made, made, parse_choices, words
from meshwright.planner.explain.difference import Difference, diff_configurations
from meshwright.planner.explain.held_choice import held_configuration, reason_of
from meshwright.planner.explain.search_objective import search_objective_s
from meshwright.planner.fixes import Fixes
from meshwright.planner.operator_order import ordered_configuration
from meshwright.planner.plan import Plan, SearchRecord
from meshwright.planner.plan_conversion import configuration_of, plan_warnings
from meshwright.planner.search import SearchProgress, search
from meshwright.planner.space import Problem


class Verdict(StrEnum):
    """What became of the choice."""

    ALREADY = "already the plan's"
    ILLEGAL = "illegal"
    DOES_NOT_FIT = "does not fit"
    SLOWER = "slower"
    WITHIN_GAP = "as fast, within the gap"
    FASTER = "faster"


class StageNeed(Value, frozen=True, kw_only=True):
    """A pipeline stage that needs more than there is."""

    stage: int
    needed_bytes: float
    limit_bytes: float

    @property
    def over_bytes(self) -> float:
        """What is missing."""
        return self.needed_bytes - self.limit_bytes


class Held(Value, frozen=True, kw_only=True):
    """The plan with the choice made otherwise and all else held; or why that is no configuration.

    `over_limit` are the stages that then need more than there is.
    """

    reason: str = ""
    over_limit: tuple[StageNeed, ...] = ()
    difference: Difference | None = None


class WhyNot(Value, frozen=True, kw_only=True):
    """The answer. `best` is the fastest plan with the choice beside the plan, `certificate` what was proven about it.

    `own_objective_s` is the plan's step as the search compares plans, which the certificate's figures are to be held
    against. `made` is what the plan has under each name (for layers, how many of them). `reason` is the rule that is
    broken, or the limit of memory that every plan with the choice exceeds.
    """

    asked: str
    verdict: Verdict
    made: dict[str, dict[str, int]]
    reason: str = ""
    held: Held | None = None
    best: Difference | None = None
    certificate: SearchRecord | None = None
    own_objective_s: float | None = None
    warnings: tuple[str, ...] = ()


def why_not(plan: Plan, texts: tuple[str, ...], progress: Callable[[SearchProgress], None] | None = None) -> WhyNot:
    """Answer for choices `key=value` together: legality first, then the plan with them held, then a search with them.

    The search is for the plan's own model, cluster, workload and runtime; nothing else is pinned.
    Raises `StrategyError` for an unknown key and for a value that is none.
    """
    fixes, configuration = parse_choices(texts), configuration_of(plan)
    own = {name: _counted(configuration, name) for name in asked(fixes)}
    answer = WhyNot(asked=words(fixes), verdict=Verdict.ALREADY, made=own, warnings=plan_warnings(plan))
    if is_made(configuration, fixes):
        return answer
    problem = problem_of(configuration, fixes)
    try:
        check_fixes(problem, configuration.runtime)
    except StrategyError as error:
        return msgspec.structs.replace(answer, verdict=Verdict.ILLEGAL, reason=reason_of(error))
    held = hold(configuration, fixes)
    try:
        found = search(problem, top=0, runtime=configuration.runtime, progress=progress)
    except InfeasibleError as error:
        return msgspec.structs.replace(answer, verdict=Verdict.DOES_NOT_FIT, reason=str(error), held=held)
    best = diff_configurations(configuration, found.configuration)
    objective_s = search_objective_s(configuration)
    return msgspec.structs.replace(
        answer,
        verdict=_verdict(best, found.certificate, objective_s, plan.search.gap),
        held=held,
        best=best,
        certificate=found.certificate,
        own_objective_s=objective_s,
    )


def problem_of(configuration: TrainingConfiguration, fixes: Fixes | None = None) -> Problem:
    """What a configuration is a plan for."""
    return Problem(
        model=configuration.model,
        cluster=configuration.cluster,
        workload=configuration.workload,
        fixes=fixes or Fixes(),
    )


def _counted(configuration: TrainingConfiguration, name: str) -> dict[str, int]:
    return {str(value): count for value, count in made(configuration, name).most_common()}


def hold(configuration: TrainingConfiguration, fixes: Fixes) -> Held:
    """The configuration with these choices and all else held, its operators in the best order found for it."""
    try:
        changed = ordered_configuration(held_configuration(configuration, fixes))
    except InputError as error:
        return Held(reason=reason_of(error))
    return Held(over_limit=_over_limit(predict(changed)), difference=diff_configurations(configuration, changed))


def _over_limit(prediction: StepPrediction) -> tuple[StageNeed, ...]:
    """The stages over the limit, the fullest first."""
    limit_bytes = prediction.memory_limit_bytes
    needs = (
        StageNeed(stage=stage, needed_bytes=peak_bytes, limit_bytes=limit_bytes)
        for stage, peak_bytes in enumerate(prediction.peak_memory_bytes)
    )
    return tuple(sorted((need for need in needs if need.over_bytes > 0), key=lambda need: -need.over_bytes))


def _verdict(best: Difference, certificate: SearchRecord, objective_s: float, own_gap: float) -> Verdict:
    """Slower where even the lower bound is; faster where the plan's own certificate did not allow for it."""
    if best.step_s.more < 0:
        return Verdict.WITHIN_GAP if certificate.objective_s >= objective_s * (1.0 - own_gap) else Verdict.FASTER
    return Verdict.SLOWER if certificate.lower_bound_s > objective_s else Verdict.WITHIN_GAP
