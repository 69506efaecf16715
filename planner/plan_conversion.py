"""A configuration with its prediction as a plan, and a plan as the configuration it stands for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, groupby

from meshwright import __version__
from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.formulas.parameters import active_parameters, total_parameters
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.simulate.schedules import placement
from meshwright.costmodel.stage_cost import CostContext, cost_context
from meshwright.costmodel.step import StepPrediction
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.planner.cluster_record import cluster_of, cluster_record
from meshwright.planner.layer_words import layer_kind
from meshwright.planner.plan import (
    SCHEMA_VERSION,
    Alternative,
    LayerGroup,
    LayerRun,
    ModelRecord,
    PipelineRecord,
    Plan,
    PredictionRecord,
    SearchRecord,
    StageRecord,
    content_hash,
)
from meshwright.planner.plan_orders import order_book, order_records, plan_orders
from meshwright.planner.validation.interval import step_time_interval


def build_plan(
    configuration: TrainingConfiguration,
    prediction: StepPrediction,
    certificate: SearchRecord,
    alternatives: tuple[Alternative, ...] = (),
) -> Plan:
    """The plan of a configuration: what a search found, what it promises and what was proven."""
    orders = plan_orders(configuration)
    return Plan(
        schema_version=SCHEMA_VERSION,
        meshwright_version=__version__,
        model=model_record(configuration.model),
        cluster=cluster_record(configuration.cluster),
        workload=configuration.workload,
        runtime=configuration.runtime,
        mesh=configuration.mesh,
        sharding=configuration.sharding,
        pipeline=_pipeline_record(configuration),
        layers=tuple(_layer_groups(configuration, orders)),
        orders=order_records(orders),
        prediction=prediction_record(prediction, configuration.model),
        search=certificate,
        alternatives=alternatives,
    )


def model_record(model: ModelSpec) -> ModelRecord:
    """The model with its layers as runs, its hash and its parameter counts."""
    return ModelRecord(
        name=model.name,
        hash=content_hash(model),
        hidden=model.hidden,
        vocab=model.vocab,
        layer_runs=tuple(LayerRun(layer=layer, count=count) for layer, count in model.layer_runs),
        tied_embeddings=model.tied_embeddings,
        head_bias=model.head_bias,
        learned_positions=model.learned_positions,
        mtp_depth=model.mtp_depth,
        source=model.source,
        total_parameters=total_parameters(model),
        active_parameters=active_parameters(model),
    )


def model_of(record: ModelRecord) -> ModelSpec:
    """The model of a record, whatever its hash."""
    return ModelSpec(
        name=record.name,
        hidden=record.hidden,
        vocab=record.vocab,
        layers=record.layers,
        tied_embeddings=record.tied_embeddings,
        head_bias=record.head_bias,
        learned_positions=record.learned_positions,
        mtp_depth=record.mtp_depth,
        source=record.source,
    )


def plan_warnings(plan: Plan) -> tuple[str, ...]:
    """What has changed under the plan since it was made, so that a new prediction may differ from its own."""
    warnings = []
    if content_hash(cluster_of(plan.cluster).profile) != plan.cluster.profile_hash:
        warnings.append(f"the profile {plan.cluster.profile} changed since this plan was made")
    if plan.meshwright_version != __version__:
        warnings.append(f"the plan was made by meshwright {plan.meshwright_version}, this is {__version__}")
    return tuple(warnings)


def prediction_record(prediction: StepPrediction, model: ModelSpec) -> PredictionRecord:
    """The prediction with its 90 % interval."""
    fields = {name: getattr(prediction, name) for name in StepPrediction.__struct_fields__}
    return PredictionRecord(
        **fields,
        step_time_interval_s=_interval_s(prediction.step_time_s, model),
        peak_memory_bytes=prediction.peak_memory_bytes,
    )


def _interval_s(step_time_s: float, model: ModelSpec) -> tuple[float, float]:
    """Where the measured time lies with 90 % probability, from the errors of predictions of published runs."""
    return step_time_interval(step_time_s, "moe" if model.is_moe else "dense")


def _pipeline_record(configuration: TrainingConfiguration) -> PipelineRecord:
    pipeline = configuration.pipeline
    return PipelineRecord(
        schedule=pipeline.schedule,
        virtual_stages=pipeline.virtual_stages,
        micro_batch_size=pipeline.micro_batch,
        num_micro_batches=configuration.num_micro_batches,
        stages=stage_records(configuration),
    )


def stage_records(configuration: TrainingConfiguration) -> tuple[StageRecord, ...]:
    """Where each virtual stage lies and which layers it has."""
    pipeline = configuration.pipeline
    placed = placement(pipeline.schedule, configuration.mesh.pp, pipeline.virtual_stages)
    where = {stage: (device, chunk) for device, chunks in enumerate(placed) for chunk, stage in enumerate(chunks)}
    counts = [len(stage) for stage in configuration.stages]
    starts = accumulate(counts, initial=0)
    return tuple(
        StageRecord(
            virtual_stage=stage,
            device=where[stage][0],
            chunk=where[stage][1],
            first_layer=start,
            num_layers=count,
        )
        for stage, (start, count) in enumerate(zip(starts, counts, strict=False))
    )


def _layer_groups(configuration: TrainingConfiguration, orders: OrderBook) -> Iterator[LayerGroup]:
    context = cost_context(configuration)
    order_of = {(entry.part, entry.strategy): index for index, entry in enumerate(orders.entries)}
    first = 0
    for stage, strategies in enumerate(configuration.stages):
        layers = configuration.model.layers[first : first + len(strategies)]
        for (layer, strategy), run in groupby(zip(layers, strategies, strict=True)):
            num_layers = sum(1 for _ in run)
            yield LayerGroup(
                virtual_stage=stage,
                first_layer=first,
                num_layers=num_layers,
                kind=layer_kind(layer),
                strategy=strategy,
                kept_tensors=_kept_tensors(context, layer, strategy),
                order=order_of[layer, strategy],
            )
            first += num_layers


def _kept_tensors(context: CostContext, layer: LayerSpec, strategy: LayerStrategy) -> tuple[str, ...]:
    program = build_layer(layer, context.setting(layer, strategy))
    return tuple(sorted(plan_backward(program, strategy.recompute).kept))


def configuration_of(plan: Plan) -> TrainingConfiguration:
    """The configuration that a consistent plan stands for."""
    stages: list[list[LayerStrategy]] = [[] for _ in plan.pipeline.stages]
    for group in plan.layers:
        stages[group.virtual_stage].extend([group.strategy] * group.num_layers)
    return TrainingConfiguration(
        model=model_of(plan.model),
        cluster=cluster_of(plan.cluster),
        workload=plan.workload,
        runtime=plan.runtime,
        mesh=plan.mesh,
        sharding=plan.sharding,
        pipeline=Pipeline(
            schedule=plan.pipeline.schedule,
            virtual_stages=plan.pipeline.virtual_stages,
            micro_batch=plan.pipeline.micro_batch_size,
        ),
        stages=tuple(map(tuple, stages)),
        orders=order_book(plan),
    )
