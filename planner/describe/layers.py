"""How the plan splits the model: mesh, strategies by group of layers, pipeline."""

from __future__ import annotations

from itertools import groupby

from meshwright.costmodel.model import LayerSpec, MoeFfnSpec
from meshwright.costmodel.strategy import AxisOrder, LayerStrategy, Mesh, ZeroStage
from meshwright.planner.describe.section import Section, percent, ranges
from meshwright.planner.layer_splits import layers_mesh, other_splits, plan_strategies
from meshwright.planner.layer_words import RECOMPUTE_WORDS, attention_words, ffn_words, layer_kind
from meshwright.planner.plan import Plan, StageRecord

MAX_RUNS = 3
ZERO_WORDS = {
    ZeroStage.NONE: "nothing is sharded over replicas",
    ZeroStage.OPTIMIZER: "optimizer state is sharded over replicas (ZeRO-1)",
    ZeroStage.GRADIENTS: "optimizer state and gradients are sharded over replicas (ZeRO-2)",
    ZeroStage.PARAMETERS: "optimizer state, gradients and parameters are sharded over replicas (ZeRO-3)",
}


def mesh_section(plan: Plan) -> Section:
    """Degrees of both views of the GPUs as most layers split them, who splits otherwise, rank order, sharding."""
    strategies = plan_strategies(plan)
    mesh = layers_mesh(plan.mesh, strategies)
    lines = [f"{_degrees(mesh, ('pp', 'dp', 'cp', 'sp', 'tp'))} = {mesh.num_gpus:,} GPUs"]
    if mesh.ep * mesh.etp > 1:
        lines.append(f"{_degrees(mesh, ('pp', 'edp', 'ep', 'etp'))} as the experts see them")
    lines += [f"{who} over {split} instead" for who, split in other_splits(plan.mesh, strategies).items()]
    if mesh.pp > 1 and mesh.dp > 1:
        outer = "dp, pp" if mesh.order is AxisOrder.PP_OUTERMOST else "pp, dp"
        lines.append(f"neighbouring ranks lie along tp, then sp, cp, {outer}")
    if mesh.dp > 1 or plan.sharding.zero is not ZeroStage.NONE:
        degree = f", in groups of {plan.sharding.shard_degree}" if plan.sharding.shard_degree else ""
        lines.append(ZERO_WORDS[plan.sharding.zero] + degree)
    if plan.sharding.offload_optimizer:
        lines.append("optimizer state lives in host memory and is updated by the CPUs (ZeRO-Offload)")
    return Section(title="Mesh", lines=tuple(lines))


def _degrees(mesh: Mesh, axes: tuple[str, ...]) -> str:
    """The axes of a view; those of degree 1 are left out.

    >>> _degrees(Mesh(pp=4, dp=2, sp=8), ("pp", "dp", "cp", "sp", "tp"))
    'pp 4 x dp 2 x sp 8'
    """
    named = [f"{axis} {getattr(mesh, axis)}" for axis in axes if getattr(mesh, axis) > 1]
    return " x ".join(named) or "one rank"


def layers_section(plan: Plan) -> Section:
    """One row for each kind of layer and strategy."""
    layers = plan.model.layers
    alike: dict[tuple[LayerSpec, LayerStrategy], list[int]] = {}
    for group in plan.layers:
        numbers = range(group.first_layer, group.first_layer + group.num_layers)
        alike.setdefault((layers[group.first_layer], group.strategy), []).extend(numbers)
    return Section(
        title="Layers",
        columns=("layers", "which", "kind", "attention", "FFN", "recomputed"),
        rows=tuple(_layer_row(layer, strategy, numbers) for (layer, strategy), numbers in alike.items()),
    )


def _layer_row(layer: LayerSpec, strategy: LayerStrategy, numbers: list[int]) -> tuple[str, ...]:
    return (
        str(len(numbers)),
        _which(numbers),
        layer_kind(layer),
        attention_words(strategy),
        ffn_words(strategy, is_moe=layer.is_moe, has_shared=_has_shared(layer)),
        RECOMPUTE_WORDS[strategy.recompute] + ("; gate and up outputs wait in host memory" if strategy.offload else ""),
    )


def _which(numbers: list[int]) -> str:
    """The layers as ranges; where these are many, the first and the last layer."""
    text = ranges(numbers)
    return text if text.count(",") < MAX_RUNS else f"{numbers[0]} ... {numbers[-1]}"


def pipeline_section(plan: Plan) -> Section:
    """Schedule, stages, micro-batches, layers of each stage, bubble."""
    pipeline, pp = plan.pipeline, plan.mesh.pp
    sequences = _counted(pipeline.micro_batch_size, "sequence", "sequences")
    micro_batches = f"{_counted(pipeline.num_micro_batches, 'micro-batch', 'micro-batches')} of {sequences} a replica"
    if pp == 1:
        return Section(title="Pipeline", lines=(f"none; {micro_batches}",))
    chunks = f" x {pipeline.virtual_stages} virtual stages" if pipeline.virtual_stages > 1 else ""
    bubble = percent(plan.prediction.breakdown_s["bubble"] / plan.prediction.step_time_s)
    return Section(
        title="Pipeline",
        lines=(
            f"{pipeline.schedule}: {pp} stages{chunks}, {micro_batches}, bubble {bubble} of the step",
            f"layers of {'virtual ' if chunks else ''}stages: {_stage_sizes(pipeline.stages)}",
        ),
    )


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _stage_sizes(stages: tuple[StageRecord, ...]) -> str:
    """Layers of the virtual stages, runs of equal ones together."""
    texts = []
    for num_layers, run in groupby(stages, key=lambda stage: stage.num_layers):
        texts.append(f"{num_layers} in {ranges(stage.virtual_stage for stage in run)}")
    return "; ".join(texts)


def _has_shared(layer: LayerSpec) -> bool:
    return isinstance(layer.ffn, MoeFfnSpec) and layer.ffn.shared_intermediate > 0
