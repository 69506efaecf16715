"""Whether the hosts of a changed configuration hold what it offloads."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate import in_flight
from meshwright.costmodel.stage_cost import cost_context, stage_costs
from meshwright.costmodel.step import schedule_of
from meshwright.costmodel.units import format_bytes


def check_host_memory(configuration: TrainingConfiguration) -> None:
    """Raises `StrategyError` where a node's host has less memory than its GPUs offload of the fullest stage."""
    if not _offloads(configuration):
        return
    cluster = configuration.cluster
    needed_bytes = host_bytes(configuration)
    if needed_bytes > cluster.host_memory_bytes:
        raise StrategyError(
            "cluster",
            "host_memory_bytes",
            f"a node's host has {format_bytes(cluster.host_memory_bytes)}, but its GPUs offload"
            f" {format_bytes(needed_bytes)} of activations and optimizer state",
        )


def host_optimizer_bytes(configuration: TrainingConfiguration) -> float:
    """Optimizer state in the host memory of a node whose GPUs are all of the stage that has most of it."""
    optimizer, placed = _optimizer_bytes(configuration), schedule_of(configuration).placement
    return _gpus_of_node(configuration) * max(sum(optimizer[stage] for stage in chunks) for chunks in placed)


def host_bytes(configuration: TrainingConfiguration) -> float:
    """Bytes in the host memory of a node whose GPUs are all of the stage that offloads most."""
    gpus = _gpus_of_node(configuration)
    activations, optimizer = _activation_bytes(configuration), _optimizer_bytes(configuration)
    placed = schedule_of(configuration).placement
    vectors = in_flight(schedule_of(configuration))
    return gpus * max(
        sum(optimizer[stage] for stage in chunks)
        + max(sum(count * activations[stage] for count, stage in zip(vector, chunks, strict=True)) for vector in held)
        for held, chunks in zip(vectors, placed, strict=True)
    )


def _gpus_of_node(configuration: TrainingConfiguration) -> int:
    return min(configuration.cluster.gpus_per_node, configuration.cluster.num_gpus)


def _offloads(configuration: TrainingConfiguration) -> bool:
    layers = any(strategy.offload for stage in configuration.stages for strategy in stage)
    return layers or configuration.sharding.offload_optimizer


def _activation_bytes(configuration: TrainingConfiguration) -> list[float]:
    """Of one micro-batch, by virtual stage."""
    context = cost_context(configuration)
    return [
        sum(count * context.offloaded_bytes(layer, strategy) for (layer, strategy), count in layers.items())
        for layers in map(configuration.layers_of, range(len(configuration.stages)))
    ]


def _optimizer_bytes(configuration: TrainingConfiguration) -> list[float]:
    """By virtual stage."""
    if not configuration.sharding.offload_optimizer:
        return [0.0] * len(configuration.stages)
    sharding = msgspec.structs.replace(configuration.sharding, offload_optimizer=False)
    return [cost.optimizer_bytes for cost in stage_costs(msgspec.structs.replace(configuration, sharding=sharding))]
