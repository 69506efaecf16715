"""How a configuration differs from what an exported file is read as: what cannot be, and what runs differently.

Both lists are found by comparing, so nothing that a framework cannot say is dropped in silence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.model import LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.program.operators import Axis, Precision
from meshwright.costmodel.stage_cost import cost_context
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.planner.foreign.export.same import same_sharding
from meshwright.planner.layer_splits import ENDS, layers_mesh, other_splits, strategies_of
from meshwright.planner.layer_words import RECOMPUTE_WORDS

SPLITS = ("tp", "sp", "cp", "ffn_tp", "ep", "etp", "sequence_parallel", "dispatch", "context_method")
"""Fields of a strategy that decide who computes and sends what."""

SPLIT_WORDS = {
    "ffn_tp": "FFN weights split over",
    "sequence_parallel": "sequence parallelism",
    "dispatch": "tokens dispatched by",
    "context_method": "keys and values brought by",
}
AXES = {Axis.TENSOR: "tp", Axis.SEQUENCE: "sp", Axis.CONTEXT: "cp", Axis.EXPERT: "ep"}
DEGREES = ("pp", "dp", "tp", "sp", "cp", "ep", "etp")
MODEL_NOTES = ("vocab", "mtp_depth")
"""Fields of a model in which a run may differ and still train the model."""

VISIBLE = 5e-4
"""Changes of the step that are worth a line."""

IGNORED = frozenset(("name", "source", "layers", *MODEL_NOTES))


def misfits(plan: TrainingConfiguration, read: TrainingConfiguration, title: str) -> Iterator[str]:
    """Why the file would not run the plan: another model, mesh, pipeline, or split of a layer."""
    yield from _other_model(plan.model, read.model, title)
    for axis in DEGREES:
        ours, theirs = getattr(plan.mesh, axis), getattr(read.mesh, axis)
        if ours != theirs:
            yield f"{axis} is {ours}; {title} would run it as {theirs}"
    if plan.pipeline != read.pipeline or tuple(map(len, plan.stages)) != tuple(map(len, read.stages)):
        yield f"its stages are {_stage_words(plan)}; {title} would run {_stage_words(read)}"
        return
    for (name, ours, theirs), count in _strategy_differences(plan, read, SPLITS):
        yield f"{SPLIT_WORDS.get(name, name)} {ours} in {_layers(count)}; {title} runs all layers with {theirs}"


def ends_as_layers(plan: TrainingConfiguration) -> TrainingConfiguration:
    """The plan with embedding and head split as most layers are, which frameworks do."""
    mesh = layers_mesh(plan.mesh, strategies_of(plan))
    return plan if mesh == plan.mesh else msgspec.structs.replace(plan, mesh=mesh)


def ends_note(plan: TrainingConfiguration, exported: TrainingConfiguration, title: str) -> Iterator[str]:
    """What the framework does otherwise with embedding and head."""
    if exported.mesh != plan.mesh:
        ours = other_splits(plan.mesh, strategies_of(plan))[ENDS]
        yield f"{ENDS} are split over {ours} in the plan, as the layers in {title}"


def differences(plan: TrainingConfiguration, read: TrainingConfiguration, title: str) -> Iterator[str]:
    """What the framework would do otherwise, and still run the plan."""
    yield from _model_notes(plan.model, read.model, title)
    if not same_sharding(plan, read):
        yield f"model state: {_sharding_words(plan)} in the plan, {_sharding_words(read)} in {title}"
    if plan.mesh.order is not read.mesh.order:
        yield f"ranks are ordered {plan.mesh.order} in the plan, {read.mesh.order} in {title}"
    yield from _recompute_notes(plan, read, title)
    for (name, ours, _), count in _strategy_differences(plan, read, ("offload", "communication")):
        if name == "offload" and ours:
            yield f"activations of {_layers(count)} wait in host memory in the plan, on the GPU in {title}"
        if name == "communication" and ours is Precision.FP8 and not read.runtime.fp8_tensor_gather:
            yield f"activations of {_layers(count)} travel in FP8 in the plan, in BF16 in {title}"
    yield from _runtime_notes(plan, read, title)
    if plan.workload.capacity != read.workload.capacity:
        yield f"{_capacity_words(plan)} in the plan, {_capacity_words(read)} in {title}"


def _capacity_words(configuration: TrainingConfiguration) -> str:
    capacity = configuration.workload.capacity
    return f"a capacity factor of {capacity:g}" if math.isfinite(capacity) else "experts take all tokens"


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


# The model.


def _other_model(plan: ModelSpec, read: ModelSpec, title: str) -> Iterator[str]:
    for field in ModelSpec.__struct_fields__:
        ours, theirs = getattr(plan, field), getattr(read, field)
        if field not in IGNORED and ours != theirs:
            yield f"the model's {field} is {ours}; {title} has {theirs}"
    if len(plan.layers) != len(read.layers):
        yield f"the model has {len(plan.layers)} layers; {title} would have {len(read.layers)}"
        return
    found = Counter(
        difference
        for ours, theirs in zip(plan.layers, read.layers, strict=True)
        for difference in _layer_differences(ours, theirs)
    )
    for (name, ours, theirs), count in found.items():
        yield f"{name} is {ours} in {_layers(count)}; {title} would have {theirs}"


def _layer_differences(ours: LayerSpec, theirs: LayerSpec) -> Iterator[tuple[str, object, object]]:
    if type(ours.ffn) is not type(theirs.ffn):
        yield "the feed-forward block", _kind(ours), _kind(theirs)
        return
    for part, one, other in (("attention", ours.attention, theirs.attention), ("ffn", ours.ffn, theirs.ffn)):
        for field in one.__struct_fields__:
            if getattr(one, field) != getattr(other, field):
                yield f"{part}.{field}", getattr(one, field), getattr(other, field)
    for field in ("num_norms", "norm_bias"):
        if getattr(ours, field) != getattr(theirs, field):
            yield field, getattr(ours, field), getattr(theirs, field)


def _kind(layer: LayerSpec) -> str:
    return "a mixture of experts" if layer.is_moe else "dense"


def _model_notes(plan: ModelSpec, read: ModelSpec, title: str) -> Iterator[str]:
    if plan.vocab != read.vocab:
        yield f"the vocabulary has {plan.vocab} rows in the plan, {read.vocab} in {title}"
    if plan.mtp_depth != read.mtp_depth:
        yield f"{plan.mtp_depth} modules that predict further tokens in the plan, {read.mtp_depth} in {title}"


# Stages and strategies.


def _stage_words(configuration: TrainingConfiguration) -> str:
    pipeline, counts = configuration.pipeline, tuple(map(len, configuration.stages))
    chunks = f" x {pipeline.virtual_stages}" if pipeline.virtual_stages > 1 else ""
    return f"{pipeline.schedule}{chunks}, micro-batch {pipeline.micro_batch}, layers {' '.join(map(str, counts))}"


Difference = tuple[tuple[str, object, object], int]


def _strategy_differences(
    plan: TrainingConfiguration, read: TrainingConfiguration, fields: tuple[str, ...]
) -> Iterator[Difference]:
    """(field, in the plan, in the file) with the number of layers."""
    ours = [strategy for stage in plan.stages for strategy in stage]
    theirs = [strategy for stage in read.stages for strategy in stage]
    yield from Counter(
        (name, getattr(one, name), getattr(other, name))
        for layer, one, other in zip(plan.model.layers, ours, theirs, strict=True)
        for name in fields
        if getattr(one, name) != getattr(other, name) and _matters(name, layer, one)
    ).items()


def _matters(name: str, layer: LayerSpec, strategy: LayerStrategy) -> bool:
    """Whether a field says anything about the layer."""
    ffn = layer.ffn
    match name:
        case "dispatch":
            return layer.is_moe and strategy.ep * strategy.etp > 1
        case "context_method":
            return strategy.cp > 1
        case "sequence_parallel":
            return strategy.tp > 1
        case "ffn_tp":
            return not isinstance(ffn, MoeFfnSpec) or ffn.shared_intermediate > 0
        case _:
            return True


def _recompute_notes(plan: TrainingConfiguration, read: TrainingConfiguration, title: str) -> Iterator[str]:
    pairs = [
        (one.recompute, other.recompute)
        for ours, theirs in zip(plan.stages, read.stages, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    ]
    for (ours, theirs), count in Counter(pair for pair in pairs if pair[0] is not pair[1]).items():
        words = f"recomputed: {RECOMPUTE_WORDS[ours]} in {_layers(count)} in the plan"
        yield f"{words}, {RECOMPUTE_WORDS[theirs]} there in {title}"


# Model state and the runtime.


def _sharding_words(configuration: TrainingConfiguration) -> str:
    sharding = configuration.sharding
    over = f" over {sharding.shard_degree} replicas" if sharding.shard_degree else ""
    return f"ZeRO-{sharding.stage}{over}{', optimizer in host memory' if sharding.offload_optimizer else ''}"


def _runtime_notes(plan: TrainingConfiguration, read: TrainingConfiguration, title: str) -> Iterator[str]:
    ours, theirs, mesh = plan.runtime, read.runtime, plan.mesh
    for axis, degree in AXES.items():
        if getattr(mesh, degree) > 1 and ours.overlap.level(axis) is not theirs.overlap.level(axis):
            words = f"overlap of {degree}: {ours.overlap.level(axis)} in the plan"
            yield f"{words}, {theirs.overlap.level(axis)} in {title}"
    if _gradient_words(plan) != _gradient_words(read):
        yield f"gradients are {_gradient_words(plan)} in the plan, {_gradient_words(read)} in {title}"
    if ours.cuda_graphs is not theirs.cuda_graphs:
        yield f"CUDA graphs: {'on' if ours.cuda_graphs else 'off'} in the plan, otherwise in {title}"
    if _orders_count(plan):
        yield f"operators run in the order that the plan solved; {title} has its own"


def _orders_count(plan: TrainingConfiguration) -> bool:
    """Whether the step depends on the orders that a plan brings."""
    if not plan.orders.entries:
        return False
    without = predict(msgspec.structs.replace(plan, orders=OrderBook())).step_time_s
    return not math.isclose(predict(plan).step_time_s, without, rel_tol=VISIBLE)


def _replicas(mesh: Mesh) -> int:
    return mesh.dp * mesh.cp * mesh.sp


def _gradient_words(configuration: TrainingConfiguration) -> str:
    """Without replicas nothing is reduced."""
    state = cost_context(configuration).state
    summed = f"summed in {'FP32' if state.holds_fp32_gradients else 'BF16'}"
    reduced = f" and reduced in {configuration.runtime.gradient_reduce_bytes * 8} bits"
    return summed + reduced * (_replicas(configuration.mesh) > 1)
