"""Checks a configuration written for another framework: legal, fits, how fast, how far from the best plan."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import ClusterError, InputError, MeshwrightError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.costmodel.value import Value
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.foreign.advice import Advice, Outcome, Start, advise, combine, follow, switches
from meshwright.planner.foreign.best_plan import BestPlan, Switched, best_plan, faster_one
from meshwright.planner.foreign.framework import Framework, Source
from meshwright.planner.foreign.megatron import MEGATRON
from meshwright.planner.foreign.settings import IgnoredUse, Reading, UnknownOption, UnmodelledUse
from meshwright.planner.foreign.torchtitan import TORCHTITAN
from meshwright.planner.foreign.violation import Violation
from meshwright.planner.plan import PredictionRecord
from meshwright.planner.plan_conversion import prediction_record
from meshwright.planner.search import SearchProgress

FRAMEWORKS = {framework.name: framework for framework in (MEGATRON, TORCHTITAN)}
OURS = "Meshwright"


class CheckResult(Value, frozen=True, kw_only=True):
    """What is to be said about a configuration.

    `configuration` and `prediction` are None where the rules that are broken leave nothing to predict. `best` is None
    where no search was asked for or nothing fits. `gap`: (step - best step) / step, negative where the configuration
    is faster than the plan found. `advice`: single changes, best first. `combined`: what taking the best one after the
    other comes to. `notes`: what in a script could not be followed.
    """

    framework: str
    where: str
    num_gpus: int
    legal: bool
    problems: tuple[Violation, ...]
    unknown_flags: tuple[UnknownOption, ...]
    ignored_flags: tuple[IgnoredUse, ...]
    unmodelled_flags: tuple[UnmodelledUse, ...]
    notes: tuple[str, ...]
    configuration: TrainingConfiguration | None
    prediction: PredictionRecord | None
    fits: bool | None
    best: BestPlan | None
    gap: float | None
    advice: tuple[Advice, ...]
    combined: tuple[Advice, ...]


class CheckRequest(Value, frozen=True, kw_only=True):
    """What is asked. `num_gpus` where the configuration does not say; `search` whether to look for the best plan."""

    framework: str
    source: Source
    cluster: str
    num_gpus: int | None = None
    expert_imbalance: float = 1.0
    search: bool = True


def check(request: CheckRequest, progress: Callable[[SearchProgress], None] | None = None) -> CheckResult:
    """Read, apply the rules, predict, search, and try changes.

    Raises `InputError` for what cannot be read, and where neither the configuration nor the request says how many GPUs.
    """
    framework = _framework(request.framework)
    reading = framework.read(request.source)
    for name in framework.required:
        reading.settings.integer(name)
    cluster = _cluster(request, reading)
    broken = framework.broken_rules(reading.settings, cluster.num_gpus)
    configuration, prediction, ours = _predicted(framework, reading, cluster, request.expert_imbalance)
    if ours is not None and not broken:
        broken = (ours,)
    best: BestPlan | None = None
    advice: tuple[Advice, ...] = ()
    combined: tuple[Advice, ...] = ()
    if configuration is not None and prediction is not None:
        start = Start(
            framework=framework,
            settings=reading.settings,
            cluster=cluster,
            expert_imbalance=request.expert_imbalance,
            configuration=configuration,
            outcome=Outcome(
                step_time_s=prediction.step_time_s, peak_bytes=max(prediction.peak_memory_bytes), fits=prediction.fits
            ),
        )
        course = follow(start)
        advice, combined = advise(start), combine(start, course)
        switched = Switched(runtime=course.end.configuration.runtime, switches=switches(start, course))
        best = best_plan(framework, configuration, progress, switched) if request.search else None
        best = best and faster_one(best, course.end.configuration, course.end.outcome, switched.switches)
    unmodelled = (*reading.unmodelled, *framework.unmodelled(reading.settings))
    return CheckResult(
        framework=framework.name,
        where=request.source.where,
        num_gpus=cluster.num_gpus,
        legal=not broken,
        problems=broken,
        unknown_flags=reading.unknown,
        ignored_flags=reading.ignored,
        unmodelled_flags=unmodelled,
        notes=reading.notes,
        configuration=configuration,
        prediction=prediction_record(prediction, configuration.model) if configuration and prediction else None,
        fits=prediction.fits if prediction else None,
        best=best,
        gap=1.0 - best.step_time_s / prediction.step_time_s if best and prediction else None,
        advice=advice,
        combined=combined,
    )


def _framework(name: str) -> Framework:
    if name not in FRAMEWORKS:
        raise InputError("--from", name, f"is unknown; expected {' or '.join(FRAMEWORKS)}")
    return FRAMEWORKS[name]


def _cluster(request: CheckRequest, reading: Reading) -> ClusterSpec:
    """The cluster with the GPUs that are asked for, or that the launcher starts."""
    num_gpus = reading.num_gpus if request.num_gpus is None else request.num_gpus
    if num_gpus is None:
        problem = f"is missing: {request.source.where} does not say how many GPUs it runs on"
        raise InputError("--gpus", "", problem)
    cluster = load_cluster(request.cluster)
    try:
        return cluster.with_gpus(num_gpus)
    except ClusterError as error:
        raise ClusterError("--gpus", "", error.problem) from error


Predicted = tuple[TrainingConfiguration | None, StepPrediction | None, Violation | None]


def _predicted(framework: Framework, reading: Reading, cluster: ClusterSpec, imbalance: float) -> Predicted:
    """The configuration and its prediction; or our own rule that forbids it."""
    try:
        configuration = framework.configuration_of(reading.settings, cluster, imbalance)
        return configuration, predict(configuration), None
    except InputError as error:
        if error.where == reading.settings.where and not framework.broken_rules(reading.settings, cluster.num_gpus):
            raise
        return None, None, Violation(whose=OURS, rule=error.problem, values=f"{error.where} {error.field}", fix="")
    except MeshwrightError as error:
        return None, None, Violation(whose=OURS, rule=str(error), values="", fix="")


__all__ = ["FRAMEWORKS", "CheckRequest", "CheckResult", "Source", "check"]
