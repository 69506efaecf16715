"""A configuration taken apart, so that several of its parts can change before they are checked against each other.

A longer sequence may need a smaller micro-batch in the same breath.
"""

from __future__ import annotations

from itertools import chain

import msgspec

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.simulate import check_combination
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload


class Draft(Value, frozen=True, kw_only=True):
    """The parts of a configuration that can change; `strategies` are those of all layers, in model order."""

    cluster: ClusterSpec
    workload: Workload
    mesh: Mesh
    sharding: Sharding
    pipeline: Pipeline
    strategies: tuple[LayerStrategy, ...]
    layers_per_stage: tuple[int, ...]


def draft_of(configuration: TrainingConfiguration) -> Draft:
    """The draft that changes nothing."""
    return Draft(
        cluster=configuration.cluster,
        workload=configuration.workload,
        mesh=configuration.mesh,
        sharding=configuration.sharding,
        pipeline=configuration.pipeline,
        strategies=tuple(chain.from_iterable(configuration.stages)),
        layers_per_stage=tuple(map(len, configuration.stages)),
    )


def changed_configuration(configuration: TrainingConfiguration, draft: Draft) -> TrainingConfiguration:
    """The configuration that the draft stands for; raises `InputError` where its parts contradict each other."""
    _check_sequence(configuration, draft)
    num_stages = draft.mesh.pp * draft.pipeline.virtual_stages
    counts = draft.layers_per_stage
    if len(counts) != num_stages:
        counts = even_split(len(draft.strategies), num_stages)
    layers = iter(draft.strategies)
    changed = msgspec.structs.replace(
        configuration,
        cluster=draft.cluster,
        workload=draft.workload,
        mesh=draft.mesh,
        sharding=draft.sharding,
        pipeline=draft.pipeline,
        stages=tuple(tuple(next(layers) for _ in range(count)) for count in counts),
    )
    pipeline = draft.pipeline
    check_combination(pipeline.schedule, draft.mesh.pp, changed.num_micro_batches, pipeline.virtual_stages)
    return changed


def even_split(num_layers: int, num_stages: int) -> tuple[int, ...]:
    """Layers of each virtual stage when they are spread evenly, the larger ones in front.

    >>> even_split(10, 4)
    (3, 3, 2, 2)
    """
    if num_layers < num_stages:
        raise StrategyError("pipeline", "virtual_stages", f"{num_stages} virtual stages, but only {num_layers} layers")
    size, larger = divmod(num_layers, num_stages)
    return (size + 1,) * larger + (size,) * (num_stages - larger)


def _check_sequence(configuration: TrainingConfiguration, draft: Draft) -> None:
    seq_len, mesh = draft.workload.seq_len, draft.mesh
    learned = configuration.model.learned_positions
    if learned and seq_len > learned:
        raise StrategyError("workload", "seq_len", f"{seq_len}, but the model has {learned} learned positions")
    shares = mesh.replica_gpus * (2 if mesh.cp > 1 else 1)
    if seq_len % shares:
        factors = "2 x cp x sp x tp" if mesh.cp > 1 else "sp x tp"
        raise StrategyError("workload", "seq_len", f"{seq_len} is not a multiple of {factors} = {shares}")
