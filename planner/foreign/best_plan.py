"""The best plan that a framework can run, for the model, cluster and batch of a configuration."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.value import Value
from meshwright.planner.check_fixes import check_fixes
from meshwright.planner.fixes import AttentionChoice, Fixes
from meshwright.planner.foreign.advice import Outcome
from meshwright.planner.foreign.framework import Framework
from meshwright.planner.search import SearchProgress, SearchResult, search
from meshwright.planner.space import Problem


class Switched(Value, frozen=True, kw_only=True):
    """Another way in which a framework can run, and the options that switch it on."""

    runtime: RuntimeSpec
    switches: str


class BestPlan(Value, frozen=True, kw_only=True):
    """The fastest plan found with the framework's schedules and tensor parallelism.

    `beyond` says what the plan still uses that the framework does not have, `switches` which options it needs beside
    those of the configuration, as the framework writes them. `is_advised`: it is what the advised changes come to,
    which the searched space leaves out.
    """

    configuration: TrainingConfiguration
    step_time_s: float
    lower_bound_s: float
    peak_memory_bytes: float
    beyond: tuple[str, ...]
    switches: str = ""
    is_advised: bool = False


def best_plan(
    framework: Framework,
    configuration: TrainingConfiguration,
    progress: Callable[[SearchProgress], None] | None = None,
    switched: Switched | None = None,
) -> BestPlan | None:
    """The best plan as the framework is configured, or `switched` to run in another way; None where nothing fits."""
    plans = [_best_plan(framework, configuration, configuration.runtime, progress)]
    if switched is not None and switched.runtime != configuration.runtime:
        plan = _best_plan(framework, configuration, switched.runtime, progress)
        plans.append(plan and msgspec.structs.replace(plan, switches=switched.switches))
    return min(filter(None, plans), key=lambda plan: plan.step_time_s, default=None)


def faster_one(best: BestPlan, advised: TrainingConfiguration, outcome: Outcome, switches: str) -> BestPlan:
    """The plan found, or what the advice comes to where that fits and is faster: it may leave the searched space."""
    if not outcome.fits or outcome.step_time_s >= best.step_time_s:
        return best
    return BestPlan(
        configuration=advised,
        step_time_s=outcome.step_time_s,
        lower_bound_s=min(best.lower_bound_s, outcome.step_time_s),
        peak_memory_bytes=outcome.peak_bytes,
        beyond=(),
        switches=switches,
        is_advised=True,
    )


def _best_plan(
    framework: Framework,
    configuration: TrainingConfiguration,
    runtime: RuntimeSpec,
    progress: Callable[[SearchProgress], None] | None,
) -> BestPlan | None:
    """Search once for each schedule that the framework has."""
    results = []
    for schedule in _schedules(framework, configuration):
        problem = _problem(framework, configuration, schedule)
        try:
            check_fixes(problem, runtime)
            results.append(search(problem, top=0, runtime=runtime, progress=progress))
        except MeshwrightError:
            continue
    if not results:
        return None
    best = min(results, key=lambda result: result.prediction.step_time_s)
    return BestPlan(
        configuration=best.configuration,
        step_time_s=best.prediction.step_time_s,
        lower_bound_s=min(result.certificate.lower_bound_s for result in results),
        peak_memory_bytes=max(best.prediction.peak_memory_bytes),
        beyond=_beyond(framework, best),
    )


def _schedules(framework: Framework, configuration: TrainingConfiguration) -> tuple[ScheduleKind, ...]:
    """One where there is no pipeline to schedule."""
    cut = configuration.cluster.num_gpus > 1 and framework.pipelines(configuration.model)
    return framework.schedules if cut else framework.schedules[:1]


def _problem(framework: Framework, configuration: TrainingConfiguration, schedule: ScheduleKind) -> Problem:
    pp = None if framework.pipelines(configuration.model) else 1
    return Problem(
        model=configuration.model,
        cluster=configuration.cluster,
        workload=configuration.workload,
        fixes=Fixes(attention=AttentionChoice.TENSOR, schedule=schedule, pp=pp),
    )


def _beyond(framework: Framework, result: SearchResult) -> tuple[str, ...]:
    strategies = {strategy for stage in result.configuration.stages for strategy in stage}
    recomputes = sorted({s.recompute.value for s in strategies if s.recompute not in framework.recomputes})
    mixed = len({msgspec.structs.replace(s, recompute=framework.recomputes[0]) for s in strategies}) > 1
    beyond = [f"recomputation {name}" for name in recomputes]
    if len({s.recompute for s in strategies}) > 1 and not recomputes:
        beyond.append("recomputation that differs between layers")
    if any(strategy.offload for strategy in strategies):
        beyond.append("activations in host memory")
    if mixed:
        beyond.append("strategies that differ between layers")
    return tuple(beyond)
