"""What a plan would do under other circumstances: its own prediction beside the one with changed fields."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.costmodel.value import Value
from meshwright.planner.changes import CHANGES, OPTION, parse_changes
from meshwright.planner.circumstance_changes import CIRCUMSTANCE_CHANGES
from meshwright.planner.draft import Draft, changed_configuration, draft_of
from meshwright.planner.goodput import TrainingOutlook, training_outlook
from meshwright.planner.held.orders import num_solved_anew
from meshwright.planner.plan import Plan, PredictionRecord
from meshwright.planner.plan_conversion import configuration_of, plan_warnings, prediction_record

PRICE = "cluster.price_per_gpu_hour"


class FieldChange(Value, frozen=True, kw_only=True):
    """One changed field, in SI units."""

    key: str
    before: int | float | str | bool
    after: int | float | str | bool


class StageOver(Value, frozen=True, kw_only=True):
    """A pipeline stage that needs more than the limit."""

    stage: int
    over_bytes: float


class WhatIf(Value, frozen=True, kw_only=True):
    """A plan's own prediction and the one with `changes`; `over_limit` lists the stages that do not fit.

    `warnings`: what else than the changes may tell the two predictions apart. `outlook`: of a whole run, where changes
    are about that.
    """

    model: str
    changes: tuple[FieldChange, ...]
    planned: PredictionRecord
    prediction: PredictionRecord
    fits: bool
    over_limit: tuple[StageOver, ...]
    warnings: tuple[str, ...]
    outlook: TrainingOutlook | None = None

    @property
    def reproduces(self) -> bool:
        """Whether nothing was changed and the prediction is the plan's own, to the last digit."""
        return not self.changes and self.prediction == self.planned


class Baseline(Value, frozen=True, kw_only=True):
    """A plan made ready for many questions: its configuration and what has changed under it, worked out once."""

    plan: Plan
    configuration: TrainingConfiguration
    draft: Draft
    warnings: tuple[str, ...]


class Changed(Value, frozen=True, kw_only=True):
    """A plan's configuration with changes made to it."""

    configuration: TrainingConfiguration
    changes: tuple[FieldChange, ...]


def baseline_of(plan: Plan) -> Baseline:
    """The plan, ready for questions."""
    configuration = configuration_of(plan)
    return Baseline(plan=plan, configuration=configuration, draft=draft_of(configuration), warnings=plan_warnings(plan))


def what_if(plan: Plan, texts: tuple[str, ...]) -> WhatIf:
    """Evaluate a plan with changes `key=value`; what is not changed stays (`draft.changed_configuration` says how).

    Raises `InputError` for an unknown key, a value that is none, and changes that the plan's other choices forbid.
    """
    baseline = baseline_of(plan)
    change = changed(baseline, parse_changes(texts))
    return with_outlook(answer(baseline, change), change)


def with_outlook(result: WhatIf, change: Changed) -> WhatIf:
    """The answer with the outlook of the whole run, if a change is about circumstances of a run, or its price."""
    if not any(made.key in CIRCUMSTANCE_CHANGES or made.key == PRICE for made in change.changes):
        return result
    return msgspec.structs.replace(result, outlook=training_outlook(change.configuration, result.prediction))


def changed(baseline: Baseline, values: Mapping[str, str]) -> Changed:
    """The configuration with the changes (full keys to text), made in the order of `CHANGES`, and what they replaced.

    Raises `InputError` with the key and the value for text that is none, and with all of them for contradictions.
    """
    draft, changes = drafted(baseline, values)
    try:
        configuration = changed_configuration(baseline.configuration, draft)
    except InputError as error:
        given = " ".join(f"{key}={value}" for key, value in values.items())
        raise InputError(OPTION, given, _rule(error, values)) from error
    return Changed(configuration=configuration, changes=changes)


def drafted(baseline: Baseline, values: Mapping[str, str]) -> tuple[Draft, tuple[FieldChange, ...]]:
    """The draft with the changes, not yet checked against each other."""
    draft, changes = baseline.draft, []
    for key in (key for key in CHANGES if key in values):
        change = CHANGES[key]
        before = change.get(draft)
        value = change.read(key, values[key], before)
        try:
            draft = change.put(draft, value)
        except InputError as error:
            raise InputError(OPTION, f"{key}={values[key]}", error.problem) from error
        changes.append(FieldChange(key=key, before=before, after=change.get(draft)))
    return draft, tuple(changes)


def answer(baseline: Baseline, change: Changed) -> WhatIf:
    """The prediction of a changed plan beside the plan's own."""
    predicted = predict_changed(change.configuration)
    return WhatIf(
        model=baseline.plan.model.name,
        changes=change.changes,
        planned=baseline.plan.prediction,
        prediction=prediction_record(predicted, change.configuration.model),
        fits=predicted.fits,
        over_limit=_over_limit(predicted),
        warnings=(*baseline.warnings, *_order_warnings(baseline, change.configuration)),
    )


def predict_changed(configuration: TrainingConfiguration) -> StepPrediction:
    """The prediction; a GPU that lacks what the changes ask for is an `InputError` of `--set`."""
    try:
        return predict(configuration)
    except InputError as error:
        raise InputError(OPTION, error.field, f"{error.where}: {error.problem}") from error


def _rule(error: InputError, values: Mapping[str, str]) -> str:
    """What is wrong, after its place unless that is what was set."""
    named = any(key.rpartition(".")[2] == error.field for key in values)
    return error.problem if named and len(values) == 1 else f"{error.where} {error.field}: {error.problem}"


def _order_warnings(baseline: Baseline, configuration: TrainingConfiguration) -> tuple[str, ...]:
    number = num_solved_anew(baseline.configuration.orders, configuration.orders)
    kinds = (
        "one kind of layer runs its" if number == 1 else f"{number} kinds of layers (or ends of the model) run their"
    )
    return (f"{kinds} operators in an order solved anew",) if number else ()


def _over_limit(prediction: StepPrediction) -> tuple[StageOver, ...]:
    limit_bytes = prediction.memory_limit_bytes
    return tuple(
        StageOver(stage=stage, over_bytes=peak_bytes - limit_bytes)
        for stage, peak_bytes in enumerate(prediction.peak_memory_bytes)
        if peak_bytes > limit_bytes
    )
