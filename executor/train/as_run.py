"""A plan's configuration as this executor runs it: another prediction than the plan's own, made without any search.

The plan promises what its runtime would do; `costmodel/runtimes/meshwright-run.json` describes what this one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.order.launch_order import Launch, LayerOrder, PassOrder
from meshwright.costmodel.order.order_book import OrderBook, OrderEntry
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.operators import BESIDE, Operator, Resource
from meshwright.costmodel.program.program import with_prefix
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.stage_cost import cost_context
from meshwright.costmodel.step import predict
from meshwright.executor.train.record import AsRun
from meshwright.executor.train.stage_times import predicted_parts

replace = msgspec.structs.replace

RUNTIME = "meshwright-run"
OBEYED = (
    "fp32_gradients",
    "gate_before_fc2",
    "gradient_reduce_bytes",
    "fused_kernels",
    "gathers_each_product",
    "fp8_tensor_gather",
    "overlap_gradient_reduce",
    "overlap_parameter_gather",
    "accumulates_unsharded",
)
"""Settings of a plan's runtime that shape the programs, or what travels: the executor does as the plan says."""


def as_run(configuration: TrainingConfiguration, *, balanced: bool, one_stream: bool) -> AsRun:
    """What the cost model says of the configuration as this executor runs it.

    `balanced`: experts are taken in turn. `one_stream`: nothing in layers overlaps.
    """
    running = running_configuration(configuration, balanced=balanced, one_stream=one_stream)
    step_time_s = predict(running).step_time_s
    return AsRun(runtime=RUNTIME, step_time_s=step_time_s, stages=tuple(predicted_parts(running, step_time_s)))


def running_configuration(
    configuration: TrainingConfiguration, *, balanced: bool, one_stream: bool
) -> TrainingConfiguration:
    """The configuration with this executor for its runtime, and operators launched one by one in the plan's order."""
    obeyed = {name: getattr(configuration.runtime, name) for name in OBEYED}
    overlap = LayerOverlap(data=configuration.runtime.overlap.data)
    if not one_stream:
        overlap = _between_operators(configuration.runtime.overlap)
    runtime, workload = replace(load_runtime(RUNTIME), **obeyed, overlap=overlap), configuration.workload
    if balanced:
        runtime = replace(runtime, expert_load_deviation=0.0)
        workload = replace(workload, expert_imbalance=1.0, expert_load=msgspec.UNSET)
    return replace(configuration, runtime=runtime, workload=workload, orders=_one_by_one(configuration))


def _between_operators(planned: LayerOverlap) -> LayerOverlap:
    """The plan's overlap without fused kernels and, but for DualPipe's slots, other micro-batches' passes beside."""
    return LayerOverlap(
        tensor=_unfused(planned.tensor),
        sequence=_unfused(planned.sequence),
        context=_unfused(planned.context),
        expert=_unfused(planned.expert),
        data=planned.data,
    )


def _unfused(level: OverlapLevel) -> OverlapLevel:
    return OverlapLevel.NONE if level is OverlapLevel.NONE else OverlapLevel.INTER_OPERATOR


def _one_by_one(configuration: TrainingConfiguration) -> OrderBook:
    """The plan's orders without fused kernels: this executor has none, and launches their operators in turn."""
    context = cost_context(configuration)
    entries = []
    for entry in configuration.orders.entries:
        program = context.program(entry.part, entry.strategy)
        beside = with_prefix(program, BESIDE)
        operators = {op.name: op for op in (*program.forward, *program.backward, *beside.forward)}
        passes = {name: _apart(getattr(entry.order, name), operators) for name in LayerOrder.__struct_fields__}
        entries.append(OrderEntry(part=entry.part, strategy=entry.strategy, order=LayerOrder(**passes)))
    return OrderBook(entries=tuple(entries))


def _apart(order: PassOrder | None, operators: Mapping[str, Operator]) -> PassOrder | None:
    if order is None:
        return None
    return replace(order, launches=tuple(one for launch in order.launches for one in _members(launch, operators)))


def _members(launch: Launch, operators: Mapping[str, Operator]) -> Iterator[Launch]:
    if len(launch.operators) == 1:
        yield launch
        return
    for name in launch.operators:
        resource = operators[name].resource
        num_sms = 0 if resource is Resource.COMPUTE else launch.num_sms
        yield Launch(operators=(name,), stream=resource, num_sms=num_sms)
