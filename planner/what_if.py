"""What a plan would do under other circumstances: its own prediction beside the one with changed fields."""

from __future__ import annotations

from difflib import get_close_matches

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.costmodel.value import Value
from meshwright.planner.changes import CHANGES, OPTION
from meshwright.planner.draft import changed_configuration, draft_of
from meshwright.planner.plan import Plan, PredictionRecord
from meshwright.planner.plan_conversion import configuration_of, plan_warnings, prediction_record


class FieldChange(Value, frozen=True, kw_only=True):
    """One changed field, in SI units."""

    key: str
    before: int | float | str
    after: int | float | str


class StageOver(Value, frozen=True, kw_only=True):
    """A pipeline stage that needs more than the limit."""

    stage: int
    over_bytes: float


class WhatIf(Value, frozen=True, kw_only=True):
    """A plan's own prediction and the one with `changes`; `over_limit` lists the stages that do not fit.

    `warnings`: what else than the changes may tell the two predictions apart.
    """

    model: str
    changes: tuple[FieldChange, ...]
    planned: PredictionRecord
    prediction: PredictionRecord
    fits: bool
    over_limit: tuple[StageOver, ...]
    warnings: tuple[str, ...]

    @property
    def reproduces(self) -> bool:
        """Whether nothing was changed and the prediction is the plan's own, to the last digit."""
        return not self.changes and self.prediction == self.planned


def what_if(plan: Plan, texts: tuple[str, ...]) -> WhatIf:
    """Evaluate a plan with changes `key=value`.

    Raises `InputError` for an unknown key, a value that is none, and changes that the plan's other choices forbid.
    """
    configuration, changes = _changed(configuration_of(plan), parse_changes(texts))
    predicted = predict(configuration)
    return WhatIf(
        model=plan.model.name,
        changes=changes,
        planned=plan.prediction,
        prediction=prediction_record(predicted, configuration.model),
        fits=predicted.fits,
        over_limit=_over_limit(predicted),
        warnings=plan_warnings(plan),
    )


def parse_changes(texts: tuple[str, ...]) -> dict[str, str]:
    """Full keys to values as typed. Where it is clear, a key may leave out its section, as in seq_len."""
    values: dict[str, str] = {}
    for text in texts:
        key, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not value:
            raise InputError(OPTION, text, "expected key=value, for example workload.seq_len=16384")
        full = _full_key(key)
        if full in values:
            raise InputError(OPTION, key, "is given twice")
        values[full] = value
    return values


def _full_key(key: str) -> str:
    if key in CHANGES:
        return key
    short = {name.rpartition(".")[2]: name for name in CHANGES}
    if key in short:
        return short[key]
    near = get_close_matches(key, (*CHANGES, *short), n=1, cutoff=0.5)
    hint = f"did you mean {short.get(near[0], near[0])}?" if near else f"expected one of {', '.join(CHANGES)}"
    raise InputError(OPTION, key, f"unknown key; {hint}")


def _changed(
    configuration: TrainingConfiguration, values: dict[str, str]
) -> tuple[TrainingConfiguration, tuple[FieldChange, ...]]:
    """The configuration with the changes made in the order of `CHANGES`, and the changes with what they replaced."""
    draft, changes = draft_of(configuration), []
    for key in (key for key in CHANGES if key in values):
        change = CHANGES[key]
        before = change.get(draft)
        value = change.read(key, values[key], before)
        try:
            draft = change.put(draft, value)
        except InputError as error:
            raise InputError(OPTION, f"{key}={values[key]}", error.problem) from error
        changes.append(FieldChange(key=key, before=before, after=change.get(draft)))
    try:
        return changed_configuration(configuration, draft), tuple(changes)
    except InputError as error:
        given = " ".join(f"{key}={value}" for key, value in values.items())
        raise InputError(OPTION, given, f"{error.where} {error.field}: {error.problem}") from error


def _over_limit(prediction: StepPrediction) -> tuple[StageOver, ...]:
    limit_bytes = prediction.memory_limit_bytes
    return tuple(
        StageOver(stage=stage, over_bytes=peak_bytes - limit_bytes)
        for stage, peak_bytes in enumerate(prediction.peak_memory_bytes)
        if peak_bytes > limit_bytes
    )
