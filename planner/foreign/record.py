"""The result of a check as one JSON object, whose keys stay as they are."""

from __future__ import annotations

from collections import Counter

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.strategy import Mesh
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload
from meshwright.planner.foreign.advice import Advice
from meshwright.planner.foreign.best_plan import BestPlan
from meshwright.planner.foreign.check import CheckResult
from meshwright.planner.foreign.settings import IgnoredUse, UnknownOption, UnmodelledUse
from meshwright.planner.foreign.violation import Violation
from meshwright.planner.plan import PredictionRecord


class RunRecord(Value, frozen=True, kw_only=True):
    """What a configuration does, in short. `recompute`: policies with their numbers of layers."""

    model: str
    cluster: str
    workload: Workload
    runtime: str
    mesh: Mesh
    sharding: Sharding
    pipeline: Pipeline
    num_micro_batches: int
    layers_per_stage: tuple[int, ...]
    recompute: dict[str, int]


class BestRecord(Value, frozen=True, kw_only=True):
    """The best plan found, what of it the framework does not have, and which options it needs beside those given."""

    step_time_s: float
    lower_bound_s: float
    peak_memory_bytes: float
    beyond: tuple[str, ...]
    switches: str
    run: RunRecord


class CheckRecord(Value, frozen=True, kw_only=True):
    """A check. `fits`, `run`, `prediction` are null where nothing can be predicted; `gap`: (step - best) / step."""

    framework: str
    num_gpus: int
    legal: bool
    problems: tuple[Violation, ...]
    unknown_flags: tuple[UnknownOption, ...]
    ignored_flags: tuple[IgnoredUse, ...]
    unmodelled_flags: tuple[UnmodelledUse, ...]
    not_followed: tuple[str, ...]
    fits: bool | None
    run: RunRecord | None
    prediction: PredictionRecord | None
    best: BestRecord | None
    gap: float | None
    advice: tuple[Advice, ...]
    combined: tuple[Advice, ...]


def check_record(result: CheckResult) -> CheckRecord:
    """The result without what only a program needs."""
    return CheckRecord(
        framework=result.framework,
        num_gpus=result.num_gpus,
        legal=result.legal,
        problems=result.problems,
        unknown_flags=result.unknown_flags,
        ignored_flags=result.ignored_flags,
        unmodelled_flags=result.unmodelled_flags,
        not_followed=result.notes,
        fits=result.fits,
        run=run_record(result.configuration) if result.configuration else None,
        prediction=result.prediction,
        best=_best_record(result.best) if result.best else None,
        gap=result.gap,
        advice=result.advice,
        combined=result.combined,
    )


def run_record(configuration: TrainingConfiguration) -> RunRecord:
    """A configuration in short."""
    policies = Counter(strategy.recompute.value for stage in configuration.stages for strategy in stage)
    return RunRecord(
        model=configuration.model.name,
        cluster=configuration.cluster.name,
        workload=configuration.workload,
        runtime=configuration.runtime.name,
        mesh=configuration.mesh,
        sharding=configuration.sharding,
        pipeline=configuration.pipeline,
        num_micro_batches=configuration.num_micro_batches,
        layers_per_stage=tuple(map(len, configuration.stages)),
        recompute=dict(policies),
    )


def _best_record(best: BestPlan) -> BestRecord:
    return BestRecord(
        step_time_s=best.step_time_s,
        lower_bound_s=best.lower_bound_s,
        peak_memory_bytes=best.peak_memory_bytes,
        beyond=best.beyond,
        switches=best.switches,
        run=run_record(best.configuration),
    )
