"""Whether the parts of a plan agree with each other: what a file edited by hand breaks."""

from __future__ import annotations

from collections.abc import Callable
from math import isclose
from typing import TypeVar

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError, PlanError
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.simulate import check_combination
from meshwright.planner.order_checks import check_orders
from meshwright.planner.plan import LayerGroup, Plan, content_hash
from meshwright.planner.plan_conversion import configuration_of, model_of, stage_records

T = TypeVar("T")
DEGREES = ("tp", "sp", "cp", "ffn_tp", "ep", "etp")
RELATIVE_ROUNDING = 1e-6


def check_plan(plan: Plan, where: str) -> None:
    """Raises `PlanError` with the path of the first part that contradicts another."""
    _check_model(plan, where)
    _check_mesh(plan, where)
    _check_pipeline(plan, where)
    _check_layers(plan, where)
    configuration = _configuration(plan, where)
    _check_stages(plan, where, configuration)
    check_orders(plan, where, configuration)
    _check_prediction(plan, where)


def _check_model(plan: Plan, where: str) -> None:
    found = content_hash(_named("model", where, lambda: model_of(plan.model)))
    if found != plan.model.hash:
        raise PlanError(
            where, "model.hash", f"{plan.model.hash:.12} is of another model than the one in the plan ({found:.12})"
        )


def _check_mesh(plan: Plan, where: str) -> None:
    mesh, cluster = plan.mesh, plan.cluster
    if mesh.num_gpus != cluster.num_gpus:
        raise PlanError(
            where,
            "mesh",
            f"pp {mesh.pp} x dp {mesh.dp} x cp {mesh.cp} x sp {mesh.sp} x tp {mesh.tp} = {mesh.num_gpus} GPUs,"
            f" expected cluster.num_gpus = {cluster.num_gpus}",
        )


def _check_pipeline(plan: Plan, where: str) -> None:
    pipeline, mesh = plan.pipeline, plan.mesh
    sequences = pipeline.num_micro_batches * pipeline.micro_batch_size * mesh.dp
    if sequences != plan.workload.global_batch:
        raise PlanError(
            where,
            "pipeline.num_micro_batches",
            f"{pipeline.num_micro_batches} x micro-batch {pipeline.micro_batch_size} x dp {mesh.dp} = {sequences}"
            f" sequences, expected workload.global_batch = {plan.workload.global_batch}",
        )
    _named(
        "pipeline",
        where,
        lambda: check_combination(pipeline.schedule, mesh.pp, pipeline.num_micro_batches, pipeline.virtual_stages),
    )


def _check_layers(plan: Plan, where: str) -> None:
    """Groups in order, without holes, in the stages that exist, of the model's layers, on the plan's mesh."""
    layers = plan.model.layers
    next_layer = stage = 0
    for index, group in enumerate(plan.layers):
        path = f"layers[{index}]"
        if group.first_layer != next_layer:
            raise PlanError(where, f"{path}.first_layer", f"{group.first_layer}, expected {next_layer}")
        if not stage <= group.virtual_stage < len(plan.pipeline.stages):
            highest = len(plan.pipeline.stages) - 1
            raise PlanError(
                where, f"{path}.virtual_stage", f"{group.virtual_stage}, expected {stage} to {highest}, in order"
            )
        next_layer, stage = next_layer + group.num_layers, group.virtual_stage
        for layer in layers[group.first_layer : next_layer]:
            _check_strategy(plan, group, layer, where, path)
    if next_layer != len(layers):
        raise PlanError(where, "layers", f"hold {next_layer} layers in all, the model has {len(layers)}")


def _check_strategy(plan: Plan, group: LayerGroup, layer: LayerSpec, where: str, path: str) -> None:
    strategy, mesh = group.strategy, plan.mesh
    for axis in DEGREES:
        if getattr(strategy, axis) < 1:
            problem = f"{getattr(strategy, axis)} is not a positive whole number"
            raise PlanError(where, f"{path}.strategy.{axis}", problem)
    if strategy.replica_gpus != mesh.replica_gpus:
        raise PlanError(
            where,
            f"{path}.strategy",
            f"tp {strategy.tp} x sp {strategy.sp} x cp {strategy.cp} = {strategy.replica_gpus} GPUs,"
            f" but the mesh has tp x sp x cp = {mesh.replica_gpus}",
        )
    if layer.is_moe and (strategy.ep, strategy.etp) != (mesh.ep, mesh.etp):
        raise PlanError(
            where,
            f"{path}.strategy",
            f"ep {strategy.ep}, etp {strategy.etp}, but the mesh has ep {mesh.ep}, etp {mesh.etp}",
        )


def _configuration(plan: Plan, where: str) -> TrainingConfiguration:
    return _named("", where, lambda: configuration_of(plan))


def _check_stages(plan: Plan, where: str, configuration: TrainingConfiguration) -> None:
    for index, (found, expected) in enumerate(zip(plan.pipeline.stages, stage_records(configuration), strict=True)):
        for field in expected.__struct_fields__:
            if getattr(found, field) != getattr(expected, field):
                raise PlanError(
                    where,
                    f"pipeline.stages[{index}].{field}",
                    f"{getattr(found, field)}, expected {getattr(expected, field)} (from layers and schedule)",
                )


def _check_prediction(plan: Plan, where: str) -> None:
    prediction = plan.prediction
    for field in ("peak_memory_bytes", "memory"):
        count = len(getattr(prediction, field))
        if count != plan.mesh.pp:
            raise PlanError(where, f"prediction.{field}", f"{count} values, expected one for each of pp {plan.mesh.pp}")
    for index, (memory, peak_bytes) in enumerate(zip(prediction.memory, prediction.peak_memory_bytes, strict=True)):
        for field in memory.__struct_fields__:
            if getattr(memory, field) < 0:
                raise PlanError(where, f"prediction.memory[{index}].{field}", f"{getattr(memory, field)} is negative")
        if not isclose(memory.total, peak_bytes, rel_tol=RELATIVE_ROUNDING):
            path = f"prediction.peak_memory_bytes[{index}]"
            raise PlanError(
                where, path, f"{peak_bytes}, expected {memory.total}, the sum of prediction.memory[{index}]"
            )
    spent_s = sum(prediction.breakdown_s.values())
    if not isclose(spent_s, prediction.step_time_s, rel_tol=RELATIVE_ROUNDING):
        raise PlanError(where, "prediction.breakdown_s", f"adds up to {spent_s}, expected {prediction.step_time_s}")
    _check_rates(plan, where)
    low_s, high_s = prediction.step_time_interval_s
    if not low_s <= high_s:
        raise PlanError(where, "prediction.step_time_interval_s", f"{low_s} is above {high_s}")


def _check_rates(plan: Plan, where: str) -> None:
    """Speeds are those of the workload at the predicted step: a plan edited to another one has no prediction of it."""
    prediction, tokens, num_gpus = plan.prediction, plan.workload.tokens, plan.cluster.num_gpus
    per_gpu = prediction.tokens_per_s_per_gpu
    expected = {
        "tokens_per_s": (
            tokens / prediction.step_time_s,
            f"workload.global_batch x seq_len = {tokens:,} tokens in prediction.step_time_s",
        ),
        "tokens_per_s_per_gpu": (
            prediction.tokens_per_s / num_gpus,
            f"prediction.tokens_per_s over cluster.num_gpus = {num_gpus}",
        ),
        "tflops_per_gpu": (
            per_gpu * prediction.flops_per_token / 1e12,
            "prediction.tokens_per_s_per_gpu x flops_per_token",
        ),
    }
    for field, (value, words) in expected.items():
        found = getattr(prediction, field)
        if not isclose(found, value, rel_tol=RELATIVE_ROUNDING):
            raise PlanError(where, f"prediction.{field}", f"{found:.8g}, expected {value:.8g} ({words})")


def _named(section: str, where: str, make: Callable[[], T]) -> T:
    """What `make` returns; its `InputError` as one of this file and section."""
    try:
        return make()
    except InputError as error:
        prefix = error.where if error.where in Plan.__struct_fields__ else section
        path = ".".join(filter(None, (prefix, error.field))).replace(".[", "[")
        raise PlanError(where, path, error.problem) from error
