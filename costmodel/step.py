"""Predicts one training step of a configuration: its time, where the time goes, and the memory of every stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import add

import msgspec
import numpy as np
from msgspec.structs import astuple

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.formulas.flops import flops_per_token
from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.hardware import Basis, ClusterSpec
from meshwright.costmodel.layer_cost import SERIAL_TERMS, Terms
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import Collective, CollectiveWork, Group
from meshwright.costmodel.simulate import (
    Durations,
    Held,
    OverlapPolicy,
    Schedule,
    ScheduleKind,
    StepTimeline,
    Term,
    TermLayout,
    build_schedule,
    chunk_durations,
    durations_of,
    in_flight_held,
    simulate,
    step_time_s,
)
from meshwright.costmodel.simulate.durations import Array
from meshwright.costmodel.simulate.schedules import placement
from meshwright.costmodel.slow_parts import SlowParts, with_hops, worst_places
from meshwright.costmodel.stage_cost import StageCost, cost_context, ends_of, stage_costs
from meshwright.costmodel.value import Value

SPLIT_BACKWARD = frozenset({ScheduleKind.ZB_H1, ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V})
"""Schedules whose backward is two actions."""

BARRIER_BYTES = 4.0


class StageMemory(Value, frozen=True, kw_only=True):
    """Bytes on one rank of a pipeline stage at its peak."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    transient: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.transient


class StepPrediction(Value, frozen=True, kw_only=True):
    """What a step is predicted to take.

    `mfu` is of the peak of the workload's precision; `breakdown_s` is the mean over the ranks of a replica and sums to
    the step.
    """

    step_time_s: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    flops_per_token: float
    tflops_per_gpu: float
    mfu: float
    breakdown_s: dict[str, float]
    hidden_s: dict[str, float]
    basis: dict[str, float]
    memory: tuple[StageMemory, ...]
    memory_limit_bytes: float

    @property
    def peak_memory_bytes(self) -> tuple[float, ...]:
        """Peak of each pipeline stage."""
        return tuple(stage.total for stage in self.memory)

    @property
    def fits(self) -> bool:
        """Whether every stage stays within the limit."""
        return max(self.peak_memory_bytes) <= self.memory_limit_bytes


def predict(configuration: TrainingConfiguration) -> StepPrediction:
    """Simulate one step of a configuration."""
    schedule = schedule_of(configuration)
    costs, durations = step_inputs(configuration, schedule)
    timeline = simulate(schedule, durations, step_overlap(configuration))
    per_device = _side_by_side(_per_device(configuration, schedule, costs), timeline)
    per_token = flops_per_token(configuration.model, configuration.workload.seq_len)
    tokens_per_s = configuration.workload.tokens / timeline.step_time_s
    per_gpu = tokens_per_s / configuration.cluster.num_gpus
    peak = configuration.cluster.gpu.peak_flops_per_s(configuration.workload.precision)
    return StepPrediction(
        step_time_s=timeline.step_time_s,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_gpu=per_gpu,
        flops_per_token=per_token,
        tflops_per_gpu=per_gpu * per_token / 1e12,
        mfu=per_gpu * per_token / peak,
        breakdown_s=_breakdown(configuration, costs, per_device, timeline),
        hidden_s=_hidden(per_device),
        basis=_basis(configuration),
        memory=stage_memory(schedule, costs),
        memory_limit_bytes=memory_limit_bytes(configuration.cluster.gpu.usable_memory_bytes),
    )


def schedule_of(configuration: TrainingConfiguration) -> Schedule:
    """The pipeline schedule."""
    pipeline = configuration.pipeline
    return _schedule(pipeline.schedule, configuration.mesh.pp, configuration.num_micro_batches, pipeline.virtual_stages)


@lru_cache(maxsize=256)
def _schedule(kind: ScheduleKind, num_stages: int, num_micro_batches: int, virtual_stages: int) -> Schedule:
    return build_schedule(kind, num_stages, num_micro_batches, virtual_stages)


def step_overlap(configuration: TrainingConfiguration) -> OverlapPolicy:
    """What of the step's own communication runs beside computation."""
    runtime = configuration.runtime
    overlaps_messages = runtime.overlap_single_chunk or configuration.pipeline.virtual_stages > 1
    return OverlapPolicy(
        point_to_point=runtime.overlap_pipeline and overlaps_messages,
        grad_reduce=runtime.overlap_gradient_reduce,
        param_gather=runtime.overlap_parameter_gather,
    )


def step_inputs(configuration: TrainingConfiguration, schedule: Schedule) -> tuple[tuple[StageCost, ...], Durations]:
    """Costs of the virtual stages and the event simulation's input; a slow GPU or link lies where it costs most."""
    costs = stage_costs(configuration)
    if not configuration.circumstances.slows:
        return costs, step_durations(configuration, schedule, costs)
    overlap = step_overlap(configuration)
    parts = SlowParts(configuration, schedule.placement, costs, hop_times_s)

    def inputs(gpu: int, link: int) -> tuple[tuple[StageCost, ...], Durations]:
        slow = parts.costs(gpu, link)
        return slow, with_hops(step_durations(configuration, schedule, slow), parts.hops(link))

    return inputs(*worst_places(parts, lambda gpu, link: step_time_s(schedule, inputs(gpu, link)[1], overlap)))


def step_durations(configuration: TrainingConfiguration, schedule: Schedule, costs: tuple[StageCost, ...]) -> Durations:
    """The event simulation's input: seconds by device and chunk."""
    layout = TermLayout(num_stages=schedule.num_stages, num_chunks=schedule.num_chunks)
    placed = [[costs[stage] for stage in chunks] for chunks in schedule.placement]
    split = schedule.kind in SPLIT_BACKWARD
    hops = hop_times_s(configuration)

    def per_chunk(seconds: Callable[[StageCost], float]) -> Array:
        return np.array([[seconds(cost) for cost in chunks] for chunks in placed])

    wait_s = configuration.runtime.pipeline_wait_s if schedule.num_stages > 1 else 0.0
    wgrad = per_chunk(lambda cost: cost.wgrad.total_s)
    if split:
        dgrad = per_chunk(lambda cost: cost.dgrad.total_s)
    else:
        backward = per_chunk(lambda cost: cost.backward.total_s)
        wgrad = np.minimum(wgrad, backward)
        dgrad = backward - wgrad
    return chunk_durations(
        layout,
        forward_s=per_chunk(lambda cost: cost.forward.total_s) + wait_s,
        backward_input_s=dgrad + wait_s,
        backward_weight_s=wgrad,
        num_layers=per_chunk(lambda cost: max(1, cost.num_parts)),
        overlap_saving_s=per_chunk(lambda cost: cost.overlap_saving_s),
        forward_hop_s=hops,
        backward_hop_s=hops,
        param_gather_s=per_chunk(lambda cost: cost.param_gather_s),
        grad_reduce_s=per_chunk(lambda cost: cost.grad_reduce_s),
        state_slowdown_s=state_slowdown_s(
            schedule, per_chunk(lambda cost: cost.gather_slowdown_s), per_chunk(lambda cost: cost.reduce_slowdown_s)
        ),
        barrier_s=barrier_s(configuration),
        optimizer_s=[sum(cost.optimizer_s for cost in chunks) for chunks in placed],
    )


def state_slowdown_s(schedule: Schedule, gather_s: Array, reduce_s: Array) -> Array:
    """Seconds that each device's computation loses beside gathers and reductions, of [..., devices, chunks].

    Parameters are gathered at the step's begin: beside forwards on the device of the first virtual stage, on the others
    before the first micro-batch comes.
    """
    lost_s: Array = reduce_s.sum(axis=-1)
    first = next(device for device, stages in enumerate(schedule.placement) if 0 in stages)
    lost_s[..., first] += gather_s[..., first, :].sum(axis=-1)
    return lost_s


def hop_times_s(configuration: TrainingConfiguration) -> list[float]:
    """Seconds of the message between each two neighbouring virtual stages."""
    works = hop_works(configuration)
    return [0.0 if work is None else operator_timing(work, configuration.cluster).time_s for work in works]


def hop_works(configuration: TrainingConfiguration) -> list[CollectiveWork | None]:
    """The message between each two neighbouring virtual stages; none where both are on one device."""
    gpus_per_node = configuration.cluster.gpus_per_node
    stride = configuration.mesh.pipeline_stride
    split, ends = configuration.mesh.replica_gpus, ends_of(configuration)
    if not ends.sequence_parallel:
        split //= ends.tp
    tokens = configuration.pipeline.micro_batch * configuration.workload.seq_len / split
    num_bytes = 2.0 * tokens * configuration.model.hidden
    placed = placement(configuration.pipeline.schedule, configuration.mesh.pp, configuration.pipeline.virtual_stages)
    devices = [device for _, device in sorted((stage, d) for d, chunks in enumerate(placed) for stage in chunks)]
    works: list[CollectiveWork | None] = []
    for one, other in pairwise(devices):
        same_node = one * stride // gpus_per_node == other * stride // gpus_per_node
        group = Group(size=2, ranks_per_node=2 if same_node else 1)
        work = CollectiveWork(collective=Collective.SEND_RECV, num_bytes=num_bytes, group=group)
        works.append(None if one == other else work)
    return works


def barrier_s(configuration: TrainingConfiguration) -> float:
    """Seconds to agree on the gradient norm."""
    work = barrier_work(configuration.cluster)
    return 0.0 if work is None else operator_timing(work, configuration.cluster).time_s


def barrier_work(cluster: ClusterSpec) -> CollectiveWork | None:
    """The agreement on the gradient norm: an all-reduce of one number over all GPUs; none for a single GPU."""
    if cluster.num_gpus == 1:
        return None
    group = Group(size=cluster.num_gpus, ranks_per_node=min(cluster.num_gpus, cluster.gpus_per_node))
    return CollectiveWork(collective=Collective.ALL_REDUCE, num_bytes=BARRIER_BYTES, group=group)


def stage_memory(schedule: Schedule, costs: tuple[StageCost, ...]) -> tuple[StageMemory, ...]:
    """Peak bytes of each device: state of its chunks, activations in flight at their worst, one layer in passing."""
    return tuple(
        _device_memory(moments, [costs[stage] for stage in chunks])
        for moments, chunks in zip(in_flight_held(schedule), schedule.placement, strict=True)
    )


def activation_bytes(held: Held, chunks: Sequence[StageCost]) -> float:
    """Activations of so many micro-batches in the chunks of a device."""
    counts = zip(held.total, held.late, chunks, strict=True)
    return sum(total * chunk.kept_bytes + late * chunk.late_bytes for total, late, chunk in counts)


def _device_memory(moments: tuple[Held, ...], chunks: list[StageCost]) -> StageMemory:
    return StageMemory(
        parameters=sum(chunk.parameter_bytes for chunk in chunks),
        gradients=sum(chunk.gradient_bytes for chunk in chunks),
        optimizer=sum(chunk.optimizer_bytes for chunk in chunks),
        activations=max(activation_bytes(held, chunks) for held in moments),
        transient=max(chunk.transient_bytes for chunk in chunks),
    )


def _breakdown(
    configuration: TrainingConfiguration, costs: tuple[StageCost, ...], per_device: Terms, timeline: StepTimeline
) -> dict[str, float]:
    """Mean over devices of the seconds of each kind; what is left is exposed data-parallel communication and bubble."""
    schedule = timeline.step.schedule
    seconds = {name.removesuffix("_s"): getattr(per_device, name) for name in SERIAL_TERMS}
    seconds["optimizer"] = sum(cost.optimizer_s for cost in costs) / schedule.num_stages
    seconds["exposed_data_parallel"] = timeline.step_time_s - _without_data_parallel_s(
        configuration, schedule, timeline
    )
    seconds["bubble"] = timeline.step_time_s - sum(seconds.values())
    return seconds


def _per_device(configuration: TrainingConfiguration, schedule: Schedule, costs: tuple[StageCost, ...]) -> Terms:
    """Seconds of all micro-batches on a device, the mean over devices, if no forward ran beside a backward."""
    split = schedule.kind in SPLIT_BACKWARD
    total = astuple(Terms())
    for cost in costs:
        backward = _added(astuple(cost.dgrad), astuple(cost.wgrad)) if split else astuple(cost.backward)
        total = _added(_added(total, astuple(cost.forward)), backward)
    summed = Terms(**dict(zip(Terms.__struct_fields__, total, strict=True)))
    return summed.scaled(configuration.num_micro_batches / schedule.num_stages)


def _added(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    """Terms added one by one; many of them, faster than as values."""
    return tuple(map(add, one, other))


def _side_by_side(apart: Terms, timeline: StepTimeline) -> Terms:
    """The terms less what forwards and backwards save that run together (DualPipe).

    They hide each other's exposed communication; what they save beyond that is waiting for the host, then slow-down.
    """
    if timeline.step.schedule.kind is not ScheduleKind.DUALPIPE_V:
        return apart
    saved_s = max(0.0, apart.total_s - sum(timeline.slot_busy_s) / len(timeline.slot_busy_s))
    share = min(1.0, saved_s / apart.exposed_s) if apart.exposed_s else 0.0
    changes = {}
    for link in ("nvlink", "network", "pcie"):
        exposed_s = getattr(apart, f"exposed_{link}_s")
        changes[f"exposed_{link}_s"] = (1.0 - share) * exposed_s
        changes[f"hidden_{link}_s"] = getattr(apart, f"hidden_{link}_s") + share * exposed_s
    left_s = saved_s - share * apart.exposed_s
    for name in ("host_s", "slowdown_s"):
        changes[name] = max(0.0, getattr(apart, name) - left_s)
        left_s -= getattr(apart, name) - changes[name]
    return msgspec.structs.replace(apart, **changes)


def _without_data_parallel_s(configuration: TrainingConfiguration, schedule: Schedule, timeline: StepTimeline) -> float:
    """The step without gradient reductions and parameter gathers: what they expose is the difference."""
    kept = {
        term: timeline.durations.of(term)
        for term in Term
        if not term.value.startswith(("param_gather", "grad_reduce", "state"))
    }
    durations = durations_of(timeline.durations.layout, kept)
    return step_time_s(schedule, durations, step_overlap(configuration))


def _hidden(per_device: Terms) -> dict[str, float]:
    """Mean over devices of the seconds of communication that run beside computation, by link."""
    return {link: getattr(per_device, f"hidden_{link}_s") for link in ("nvlink", "network", "pcie")}


def _basis(configuration: TrainingConfiguration) -> dict[str, float]:
    """Shares of the layers' operator time that rest on measured, interpolated and extrapolated figures."""
    context = cost_context(configuration)
    totals = dict.fromkeys(Basis, 0.0)
    layers = iter(configuration.model.layers)
    counts = [Counter((next(layers), strategy) for strategy in stage) for stage in configuration.stages]
    seconds_of = {key: context.basis_seconds(*key) for key in dict.fromkeys(key for stage in counts for key in stage)}
    for key, count in (pair for stage in counts for pair in stage.items()):
        for basis, seconds in seconds_of[key].items():
            totals[basis] += count * seconds
    whole = sum(totals.values())
    return {basis.value: seconds / whole for basis, seconds in totals.items()}
