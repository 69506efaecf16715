"""A configuration taken apart, so that several of its parts can change before they are checked against each other.

A longer sequence may need a smaller micro-batch in the same breath. Some parts only make sense together: they are
`given` first and settled when all changes are known (`planner.held` says what follows from what).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec
from msgspec import UNSET

from meshwright.costmodel.circumstances import Circumstances
from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload
from meshwright.planner.held.legality import NO_EXPERTS, check_legal
from meshwright.planner.held.mesh import AXES, held_mesh
from meshwright.planner.held.model import NUM_LAYERS, held_model, resized, sources
from meshwright.planner.held.orders import held_orders
from meshwright.planner.held.stages import held_stages
from meshwright.planner.held.strategies import ATTENTION, DISPATCH, attention_degrees, held_strategy
from meshwright.planner.layer_splits import layers_mesh

replace = msgspec.structs.replace
NODES = ("num_gpus", "gpus_per_node")
NICS, NETWORK = "nics_per_node", "network_bytes_per_s"
EXPERT_AXES = ("ep", "etp")


class Draft(Value, frozen=True, kw_only=True):
    """The parts of a configuration that can change; `strategies` are those of all layers, in model order.

    `given`: (key, value) of fields that are not in the parts yet, because others decide what they mean.
    """

    model: ModelSpec
    cluster: ClusterSpec
    workload: Workload
    runtime: RuntimeSpec
    mesh: Mesh
    sharding: Sharding
    pipeline: Pipeline
    strategies: tuple[LayerStrategy, ...]
    layers_per_stage: tuple[int, ...]
    circumstances: Circumstances = Circumstances()
    given: tuple[tuple[str, Any], ...] = ()

    def with_given(self, key: str, value: Any) -> Draft:  # noqa: ANN401  whatever the field holds
        """The draft with a value that is to be settled."""
        return replace(self, given=(*(pair for pair in self.given if pair[0] != key), (key, value)))

    def given_value(self, key: str, otherwise: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What was given for a key, or what stands in the parts."""
        return dict(self.given)[key] if key in dict(self.given) else otherwise()

    def of_section(self, section: str) -> dict[str, Any]:
        """What was given for the keys of a section, by their names without it."""
        return {key.removeprefix(f"{section}."): value for key, value in self.given if key.startswith(f"{section}.")}


def draft_of(configuration: TrainingConfiguration) -> Draft:
    """The draft that changes nothing."""
    return Draft(
        model=configuration.model,
        cluster=configuration.cluster,
        workload=configuration.workload,
        runtime=configuration.runtime,
        mesh=configuration.mesh,
        sharding=configuration.sharding,
        pipeline=configuration.pipeline,
        strategies=tuple(chain.from_iterable(configuration.stages)),
        layers_per_stage=tuple(map(len, configuration.stages)),
        circumstances=configuration.circumstances,
    )


def changed_configuration(configuration: TrainingConfiguration, draft: Draft) -> TrainingConfiguration:
    """The configuration that the draft stands for; raises `InputError` where its parts contradict each other.

    Held, unless it is changed itself: the GPUs, which data parallelism takes up when other degrees change; each layer's
    way to split and to recompute; each virtual stage's share of the layers, evenly over another number of stages; the
    order of operators wherever it still is one of the changed layer.
    """
    draft = settled(draft)
    counts = held_stages(draft.layers_per_stage, len(draft.strategies), draft.mesh.pp * draft.pipeline.virtual_stages)
    layers = iter(draft.strategies)
    changed = replace(
        configuration,
        model=draft.model,
        cluster=draft.cluster,
        workload=draft.workload,
        runtime=draft.runtime,
        mesh=draft.mesh,
        sharding=draft.sharding,
        pipeline=draft.pipeline,
        circumstances=draft.circumstances,
        stages=tuple(tuple(next(layers) for _ in range(count)) for count in counts),
    )
    if changed == configuration:
        return configuration
    check_legal(changed)
    orders = held_orders(changed, configuration.runtime.overlap)
    return changed if orders is changed.orders else replace(changed, orders=orders)


def settled(draft: Draft) -> Draft:
    """The draft with all that was given in its parts."""
    if not draft.given:
        return draft
    _check_experts(draft)
    return replace(_with_strategies(_with_mesh(_with_model(_with_cluster(draft)))), given=())


def _check_experts(draft: Draft) -> None:
    """Choices about experts would change nothing in a dense model."""
    if draft.model.is_moe:
        return
    refused = f"{draft.model.name} {NO_EXPERTS}"
    if DISPATCH in draft.of_section("layers"):
        raise StrategyError("layers", DISPATCH, refused)
    for axis, degree in draft.of_section("mesh").items():
        if axis in EXPERT_AXES and degree not in (1, getattr(draft.mesh, axis)):
            raise StrategyError("mesh", axis, refused)


def with_surroundings(draft: Draft) -> Draft:
    """The draft with what was given for model and cluster in its parts; its choices are of no use then."""
    return _with_model(_with_cluster(draft))


def _with_cluster(draft: Draft) -> Draft:
    given = draft.of_section("cluster")
    numbers = {name: value for name, value in given.items() if name in NODES}
    numbers |= _adapters(draft.cluster, given)
    return replace(draft, cluster=replace(draft.cluster, **numbers)) if numbers else draft


def _adapters(cluster: ClusterSpec, given: dict[str, Any]) -> dict[str, Any]:
    """Adapters of a node and one GPU's share of them.

    More GPUs a node bring their adapters with them: the share stays. Another number of adapters keeps their rate,
    unless the share is given, too.
    """
    gpus = given.get("gpus_per_node", cluster.gpus_per_node)
    numbers = {name: given[name] for name in (NICS, NETWORK) if name in given}
    if NICS in given and NETWORK not in given and (given[NICS], gpus) != (cluster.num_nics, cluster.gpus_per_node):
        nic_bytes_per_s = cluster.network_bytes_per_s * cluster.gpus_per_node / cluster.num_nics
        numbers[NETWORK] = nic_bytes_per_s * given[NICS] / gpus
    if NICS not in given and cluster.nics_per_node is not UNSET and gpus != cluster.gpus_per_node:
        nics, rest = divmod(cluster.num_nics * gpus, cluster.gpus_per_node)
        if rest:
            raise StrategyError(
                "cluster",
                NICS,
                f"{gpus} GPUs a node with {cluster.num_nics} adapters for {cluster.gpus_per_node} GPUs have no whole"
                f" number of adapters; set cluster.{NICS} as well",
            )
        numbers[NICS] = nics
    if numbers.get(NICS) == cluster.num_nics and cluster.nics_per_node is UNSET and gpus == cluster.gpus_per_node:
        del numbers[NICS]  # as it was, said otherwise
    return numbers


def _with_model(draft: Draft) -> Draft:
    fields = draft.of_section("model")
    if not fields:
        return draft
    strategies = draft.strategies
    if NUM_LAYERS in fields:
        taken = sources(draft.model, resized(draft.model, fields[NUM_LAYERS]))
        strategies = tuple(strategies[layer] for layer in taken)
    return replace(draft, model=held_model(draft.model, fields), strategies=strategies)


def _with_mesh(draft: Draft) -> Draft:
    """The mesh on the GPUs that there are; `layers.attention` decides tp and sp.

    Degrees tp and sp are those of the layers. Embedding and head, which may be split otherwise, stay so as long as the
    layers do.
    """
    degrees = {axis: value for axis, value in draft.of_section("mesh").items() if axis in AXES}
    before = layers_mesh(draft.mesh, draft.strategies) if degrees.keys() & {"tp", "sp"} else draft.mesh
    mesh = before
    if degrees or mesh.num_gpus != draft.cluster.num_gpus:
        mesh = held_mesh(mesh, draft.cluster.num_gpus, degrees)
    attention = draft.of_section("layers").get(ATTENTION)
    if attention is not None:
        mesh = replace(mesh, **attention_degrees(mesh, attention))
    if (mesh.tp, mesh.sp) == (before.tp, before.sp):
        mesh = replace(mesh, tp=draft.mesh.tp, sp=draft.mesh.sp)
        before = draft.mesh
    return draft if mesh == before == draft.mesh else _on_mesh(draft, before, mesh)


def _on_mesh(draft: Draft, before: Mesh, mesh: Mesh) -> Draft:
    layers = zip(draft.strategies, draft.model.layers, strict=True)
    moved = tuple(held_strategy(strategy, layer, before, mesh, {}) for strategy, layer in layers)
    return replace(draft, mesh=mesh, strategies=moved)


def _with_strategies(draft: Draft) -> Draft:
    fields, mesh = draft.of_section("layers"), draft.mesh
    if not fields:
        return draft
    layers = zip(draft.strategies, draft.model.layers, strict=True)
    return replace(
        draft, strategies=tuple(held_strategy(strategy, layer, mesh, mesh, fields) for strategy, layer in layers)
    )
