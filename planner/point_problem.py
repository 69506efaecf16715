"""Turns an outer point into the inner solver's problem, and its solution into a configuration that can be run."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import msgspec

from meshwright.costmodel.beside import may_run_beside
from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding, StateModel
from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.layer_cost import LayerCost
from meshwright.costmodel.layer_passes import LayerPasses, passes_of
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import CostContext, PartCost, end_strategy, pipeline_ends_together
from meshwright.costmodel.step import barrier_s, hop_times_s, step_overlap
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.planner.catalogue import layer_strategies, offloads, recompute_policies
from meshwright.planner.choice import Choice, EndCost, pareto_choices
from meshwright.planner.fixes import OffloadChoice
from meshwright.planner.point import PointProblem, PointSolution
from meshwright.planner.shape_bounds import ZERO_GRADIENTS, module_exchange, shape_context
from meshwright.planner.space import LayerShape, OuterPoint, Problem, even_split

KEEPS_MORE_FIRST = tuple(Recompute)
TRANSIENT_STEPS = 256
"""Transient memory counts in steps of the memory limit over this: nearly equal choices become comparable."""

HOST_ACTIVATION_FRACTION = 0.25
HOST_OPTIMIZER_FRACTION = 0.5
"""Shares of a node's memory that offload may take; the rest is for data loading and checkpoints."""


def point_problem(
    problem: Problem, runtime: RuntimeSpec, point: OuterPoint, *, best_case: bool = False
) -> PointProblem | None:
    """The inner problem of an outer point; None where a layer kind has no legal strategy.

    In the `best_case` every pass takes what no order of its operators betters: a relaxation, cheaper to cost.
    """
    kinds = problem.model.layer_types
    unsplit = msgspec.structs.replace(point, mesh=msgspec.structs.replace(point.mesh, tp=point.shape.group, sp=1))
    choices = tuple(_choices(problem, runtime, unsplit, layer, best_case) for layer in kinds)
    if not all(choices):
        return None
    context = msgspec.structs.replace(point_context(problem, runtime, point), best_case=best_case)
    ends = _ends(problem, runtime, point)
    limit_bytes = _limit_bytes(problem)
    trial = _trial_configuration(problem, runtime, point)
    index_of = {layer: index for index, layer in enumerate(kinds)}
    return PointProblem(
        kind=point.schedule,
        num_stages=point.mesh.pp,
        num_micro_batches=point.num_micro_batches,
        virtual_stages=point.virtual_stages,
        layer_types=tuple(index_of[layer] for layer in problem.model.layers),
        choices=choices,
        first=EndCost(**_numbers(context.embedding(ends), limit_bytes)),
        last=EndCost(**_numbers(context.head(ends), limit_bytes)),
        hops_s=tuple(hop_times_s(trial)),
        wait_s=trial.runtime.pipeline_wait_s if trial.mesh.pp > 1 else 0.0,
        barrier_s=barrier_s(trial),
        overlap=step_overlap(trial),
        memory_limit_bytes=limit_bytes,
        boundaries=even_split(problem, point.mesh.pp, point.virtual_stages) if point.virtual_stages > 1 else (),
    )


def point_context(problem: Problem, runtime: RuntimeSpec, point: OuterPoint) -> CostContext:
    """What all layers of a point are costed under."""
    return CostContext(
        model=problem.model,
        cluster=problem.cluster,
        workload=problem.workload,
        runtime=runtime,
        state=StateModel(cluster=problem.cluster, mesh=point.mesh, sharding=point.sharding, runtime=runtime),
        micro_batch=point.shape.micro_batch,
        passes=_passes_of(problem, point.schedule, point.sharding),
        reserves=True,
        ends_together=pipeline_ends_together(point.schedule),
    )


@lru_cache(maxsize=2048)
def _choices(
    problem: Problem, runtime: RuntimeSpec, point: OuterPoint, layer: LayerSpec, best_case: bool
) -> tuple[Choice, ...]:
    """The choices of one layer kind: those that may be best for some state, with the state of this point.

    How the point's mesh splits its groups counts for embedding and head alone: points that differ in nothing else share
    these choices.
    """
    context = msgspec.structs.replace(point_context(problem, runtime, point), best_case=best_case)
    if point.sharding.stage < ZERO_GRADIENTS:
        strategies = _undominated(problem, context.runtime, point.shape, layer, point.schedule, context.best_case)
    else:
        strategies = _strategies(problem, point.shape, layer, point.schedule)
    fitting = (strategy for strategy in strategies if _fits_host(problem, context, point, layer, strategy))
    limit_bytes = _limit_bytes(problem)
    costed = (Choice(key=strategy, **_numbers(context.layer(layer, strategy), limit_bytes)) for strategy in fitting)
    return pareto_choices(tuple(costed), point.schedule)


def _passes_of(problem: Problem, kind: ScheduleKind, sharding: Sharding) -> LayerPasses:
    offloads = problem.fixes.offload is OffloadChoice.ACTIVATIONS
    return passes_of(kind, beside=may_run_beside(sharding, offloads=offloads))


def _strategies(problem: Problem, shape: LayerShape, layer: LayerSpec, kind: ScheduleKind) -> tuple[LayerStrategy, ...]:
    """What a layer may do under a schedule. Where forwards run beside backwards, nothing is offloaded unless pinned."""
    precision, node = problem.workload.precision, problem.cluster.gpus_per_node
    return tuple(
        msgspec.structs.replace(strategy, recompute=policy, offload=offload)
        for strategy in layer_strategies(layer, shape, problem.fixes, precision, node)
        for policy in recompute_policies(problem.fixes)
        for offload in offloads(policy, problem.fixes)
        if not (offload and kind is ScheduleKind.DUALPIPE_V and problem.fixes.offload is None)
    )


@lru_cache(maxsize=1024)
def _undominated(
    problem: Problem,
    runtime: RuntimeSpec,
    shape: LayerShape,
    layer: LayerSpec,
    kind: ScheduleKind,
    best_case: bool,
) -> tuple[LayerStrategy, ...]:
    """Strategies that none with the same weights in the same places (so with the same state on any mesh) dominates."""
    context = shape_context(problem, runtime, shape)
    passes = _passes_of(problem, kind, context.state.sharding)
    context = msgspec.structs.replace(context, passes=passes, best_case=best_case)
    alike: dict[object, list[Choice]] = {}
    for strategy in _strategies(problem, shape, layer, kind):
        cost = context.compute(layer, strategy)
        place = (cost.weights, strategy.tp, strategy.ffn_tp, strategy.offload)
        alike.setdefault(place, []).append(Choice(key=strategy, **_compute_numbers(cost, _limit_bytes(problem))))
    kept = (choice for choices in alike.values() for choice in pareto_choices(tuple(choices), kind))
    return tuple(choice.key for choice in kept if isinstance(choice.key, LayerStrategy))


def _fits_host(
    problem: Problem, context: CostContext, point: OuterPoint, layer: LayerSpec, strategy: LayerStrategy
) -> bool:
    """Whether a node's memory holds what its GPUs offload if every layer does.

    A stage of any schedule holds at most twice as many micro-batches as there are stages.
    """
    if not strategy.offload:
        return True
    cluster = problem.cluster
    in_flight = point.num_micro_batches
    if point.schedule is not ScheduleKind.GPIPE:
        in_flight = min(in_flight, 2 * point.mesh.pp)
    layers = -(-problem.model.num_layers // point.mesh.pp) + 1
    needed = (
        min(cluster.gpus_per_node, cluster.num_gpus) * in_flight * layers * context.offloaded_bytes(layer, strategy)
    )
    return needed <= HOST_ACTIVATION_FRACTION * cluster.host_memory_bytes


def _limit_bytes(problem: Problem) -> float:
    return memory_limit_bytes(problem.cluster.gpu.usable_memory_bytes)


def _numbers(part: PartCost, limit_bytes: float) -> dict[str, float]:
    state = part.state
    return {
        **_compute_numbers(part.compute, limit_bytes),
        "param_gather_s": state.param_gather_s,
        "grad_reduce_s": state.grad_reduce_s,
        "gather_slowdown_s": state.gather_slowdown_s,
        "reduce_slowdown_s": state.reduce_slowdown_s,
        "optimizer_s": state.optimizer_s,
        "static_bytes": state.static_bytes,
    }


def _compute_numbers(cost: LayerCost, limit_bytes: float) -> dict[str, float]:
    """Numbers of a choice apart from its state; what passes through memory is rounded up to a step of the limit."""
    step = limit_bytes / TRANSIENT_STEPS
    return {
        "forward_s": cost.forward.total_s,
        "backward_s": cost.backward.total_s,
        "dgrad_s": cost.dgrad.total_s,
        "wgrad_s": cost.wgrad.total_s,
        "kept_bytes": cost.kept_bytes,
        "late_bytes": cost.late_bytes,
        "transient_bytes": step * ceil(cost.transient_bytes / step),
        "overlap_saving_s": cost.overlap_saving_s,
    }


def _ends(problem: Problem, runtime: RuntimeSpec, point: OuterPoint) -> LayerStrategy:
    return end_strategy(point.mesh, module_exchange(problem, runtime, point.shape), has_modules=True)


def _trial_configuration(problem: Problem, runtime: RuntimeSpec, point: OuterPoint) -> TrainingConfiguration:
    """Any legal split: what hops and barrier cost does not depend on it."""
    num_stages = point.mesh.pp * point.virtual_stages
    share, rest = divmod(problem.model.num_layers, num_stages)
    strategy = _ends(problem, runtime, point)
    stages = tuple((strategy,) * (share + (stage < rest)) for stage in range(num_stages))
    return _configuration(problem, runtime, point, stages)


def _configuration(
    problem: Problem, runtime: RuntimeSpec, point: OuterPoint, stages: tuple[tuple[LayerStrategy, ...], ...]
) -> TrainingConfiguration:
    return TrainingConfiguration(
        model=problem.model,
        cluster=problem.cluster,
        workload=problem.workload,
        runtime=runtime,
        mesh=point.mesh,
        sharding=point.sharding,
        pipeline=Pipeline(
            schedule=point.schedule, virtual_stages=point.virtual_stages, micro_batch=point.shape.micro_batch
        ),
        stages=stages,
    )


def solved_configuration(
    problem: Problem, runtime: RuntimeSpec, point: OuterPoint, inner: PointProblem, solution: PointSolution
) -> TrainingConfiguration:
    """The configuration of a solution. Within a stage, layers that recompute more come first: they are freed last.

    Under DualPipeV the other way round on the way up: so a forward comes to them as the backward beside it does.
    """
    stages: list[tuple[LayerStrategy, ...]] = []
    start = 0
    for count, assignment in zip(solution.layers_per_virtual_stage, solution.assignment, strict=True):
        pools: dict[int, list[LayerStrategy]] = {}
        for entry in assignment:
            strategy = inner.choices[entry.layer_type][entry.choice].key
            assert isinstance(strategy, LayerStrategy)
            pools.setdefault(entry.layer_type, []).extend([strategy] * entry.count)
        goes_up = inner.kind is ScheduleKind.DUALPIPE_V and len(stages) >= inner.num_stages
        for pool in pools.values():
            pool.sort(key=lambda strategy: KEEPS_MORE_FIRST.index(strategy.recompute), reverse=goes_up)
        stages.append(tuple(pools[kind].pop() for kind in inner.layer_types[start : start + count]))
        start += count
    return _configuration(problem, runtime, point, tuple(stages))
