"""Finds the best plan of one shape: the work of a study that runs in parallel."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import msgspec

from meshwright.costmodel.circumstances import Circumstances
from meshwright.costmodel.errors import InfeasibleError, InputError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload
from meshwright.planner.check_fixes import check_fixes
from meshwright.planner.codesign.budget import Budget, Measure, measured
from meshwright.planner.codesign.grid import Shape
from meshwright.planner.codesign.outcome import ShapeOutcome, ShapePlan, Status
from meshwright.planner.fixes import Fixes
from meshwright.planner.goodput import training_outlook
from meshwright.planner.layer_splits import layers_mesh, strategies_of
from meshwright.planner.search import SearchResult, search
from meshwright.planner.space import Problem
from meshwright.planner.sweep.worker import forget


class Setting(Value, frozen=True, kw_only=True):
    """What all shapes of a study have in common: how they are trained, and what their plans are measured by."""

    cluster: ClusterSpec
    workload: Workload
    runtime: RuntimeSpec
    fixes: Fixes
    budget: Budget
    tokens: float
    gap: float


class ShapeTask(Value, frozen=True, kw_only=True):
    """One shape to plan."""

    shape: Shape
    setting: Setting


def evaluate(task: ShapeTask) -> ShapeOutcome:
    """Search for the best plan of a shape. What forbids a plan becomes the reason of the outcome.

    What the search remembered is forgotten: the next shape has other layers, and memory must not grow with the study.
    """
    if task.shape.model is None:
        return outcome(task, Status.ILLEGAL, reason=task.shape.reason)
    try:
        return _searched(task, task.shape.model)
    finally:
        forget()


def _searched(task: ShapeTask, model: ModelSpec) -> ShapeOutcome:
    setting = task.setting
    problem = Problem(model=model, cluster=setting.cluster, workload=setting.workload, fixes=setting.fixes)
    try:
        check_fixes(problem, setting.runtime)
        result = search(problem, top=0, gap=setting.gap, runtime=setting.runtime)
    except InputError as error:
        return outcome(task, Status.ILLEGAL, reason=f"{error.where} {error.field}: {error.problem}".replace(" :", ":"))
    except InfeasibleError as error:
        return outcome(task, Status.INFEASIBLE, reason=str(error))
    return outcome(task, Status.PLANNED, plan=_plan(result, setting))


def outcome(task: ShapeTask, status: Status, *, reason: str = "", plan: ShapePlan | None = None) -> ShapeOutcome:
    """A row with the figures of the shape, as far as it has a model."""
    shape, setting = task.shape, task.setting
    parameters, active, flops, excess = _figures(shape.model, setting)
    return ShapeOutcome(
        name=shape.name,
        is_base=shape.is_base,
        sizes=dict(shape.sizes),
        status=status,
        reason=reason,
        total_parameters=parameters,
        active_parameters=active,
        flops_per_token=flops,
        budget_excess=excess,
        plan=plan,
    )


def _figures(model: ModelSpec | None, setting: Setting) -> tuple[int | None, int | None, float | None, float | None]:
    if model is None:
        return None, None, None, None
    amounts = {measure: measured(model, measure, setting.workload.seq_len) for measure in Measure}
    return (
        int(amounts[Measure.PARAMETERS]),
        int(amounts[Measure.ACTIVE_PARAMETERS]),
        amounts[Measure.FLOPS],
        setting.budget.excess(amounts[setting.budget.measure]),
    )


def _plan(result: SearchResult, setting: Setting) -> ShapePlan:
    configuration, prediction = result.configuration, result.prediction
    goal = Circumstances(tokens=setting.tokens)
    outlook = training_outlook(msgspec.structs.replace(configuration, circumstances=goal), prediction)
    budget = outlook.expected
    recompute = Counter(strategy.recompute.value for strategy in chain.from_iterable(configuration.stages))
    return ShapePlan(
        mesh=layers_mesh(configuration.mesh, strategies_of(configuration)),
        schedule=configuration.pipeline.schedule,
        virtual_stages=configuration.pipeline.virtual_stages,
        micro_batch_size=configuration.pipeline.micro_batch,
        sharding=configuration.sharding,
        recompute=tuple(name for name, _ in recompute.most_common()),
        step_time_s=prediction.step_time_s,
        gap=result.certificate.gap,
        tokens_per_s=prediction.tokens_per_s,
        tokens_per_s_per_gpu=prediction.tokens_per_s_per_gpu,
        mfu=prediction.mfu,
        peak_memory_bytes=max(prediction.peak_memory_bytes),
        memory_limit_bytes=prediction.memory_limit_bytes,
        days=budget.days if budget else None,
        gpu_hours=budget.gpu_hours if budget else None,
        cost=budget.cost if budget else None,
    )
