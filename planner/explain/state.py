"""What the parameters of one layer (or end) of the model cost once a step: bytes held, collectives, update."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import msgspec

from meshwright.costmodel.data_parallel import StateModel, copies_group, num_shards
from meshwright.costmodel.formulas import memory
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import (
    Collective,
    CollectiveWork,
    Group,
)
from meshwright.costmodel.program.program import Weights
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.costmodel.value import Value
from meshwright.planner.explain.formula_registry import (
    EXCHANGE,
    GRADIENTS,
    HOST_UPDATE,
    NORM,
    OPTIMIZER,
    PARAMETERS,
    UPDATE,
    formulas_of,
    names,
)
from meshwright.planner.explain.formula_text import Formula
from meshwright.planner.explain.operators import algorithm_of, group_words

WEIGHT_WORDS = {
    "dense": "not FFN",
    "ffn": "dense FFN, shared experts",
    "expert": "routed experts",
}


class StateBytes(Value, frozen=True, kw_only=True):
    """Bytes of one kind of model state of some parameters, and the formula."""

    kind: str
    num_bytes: float
    formulas: tuple[str, ...]


class StateCollective(Value, frozen=True, kw_only=True):
    """A gather of parameters or a reduction of gradients: once a step, or per micro-batch under ZeRO-2 and 3."""

    kind: str
    collective: Collective
    num_bytes: float
    group: str
    algorithm: str
    time_s: float
    per_micro_batch: bool
    formulas: tuple[str, ...]


class StateTerm(Value, frozen=True, kw_only=True):
    """Parameters of a layer that one group of ranks holds copies of: `num_parameters` on a rank, over `num_shards`."""

    weights: str
    num_parameters: float
    num_copies: int
    num_shards: int
    held: tuple[StateBytes, ...]
    collectives: tuple[StateCollective, ...]
    update_s: float
    update_formulas: tuple[str, ...]


def state_terms(model: StateModel, weights: Weights, strategy: LayerStrategy) -> tuple[StateTerm, ...]:
    """The state of a layer by the groups that hold copies of it."""
    splits = (
        ("dense", weights.dense, strategy.tp),
        ("ffn", weights.ffn, strategy.ffn_tp),
        ("expert", weights.expert, strategy.ep * strategy.etp),
    )
    gpus_per_node = model.cluster.gpus_per_node
    return tuple(
        _term(model, name, count, copies_group(model.mesh, split, gpus_per_node))
        for name, count, split in splits
        if count
    )


def _term(model: StateModel, name: str, count: float, group: Group) -> StateTerm:
    shards = num_shards(model.mesh, model.sharding, group.size)
    return StateTerm(
        weights=WEIGHT_WORDS[name],
        num_parameters=count,
        num_copies=group.size,
        num_shards=shards,
        held=_held(model, count, shards),
        collectives=tuple(_collectives(model, count, group)),
        update_s=model.update_s(count, shards),
        update_formulas=names(_update_formulas(model)),
    )


def _held(model: StateModel, count: float, shards: int) -> tuple[StateBytes, ...]:
    amounts = (
        ("parameters", memory.parameter_bytes(count, model.sharding.stage, shards), PARAMETERS),
        ("gradients", model.gradient_bytes(count, shards), GRADIENTS),
        ("optimizer", model.optimizer_bytes(count, shards), OPTIMIZER),
    )
    return tuple(StateBytes(kind=kind, num_bytes=number, formulas=names(by)) for kind, number, by in amounts)


def _collectives(model: StateModel, count: float, group: Group) -> Iterator[StateCollective]:
    """Gather and reduction over the shards, and under HSDP the reduction between the copies of a shard."""
    stage, runtime = model.sharding.stage, model.runtime
    shards = num_shards(model.mesh, model.sharding, group.size)
    inner = Group(size=shards, ranks_per_node=gcd(shards, group.ranks_per_node))
    if stage >= 1:
        num_bytes = count * runtime.parameter_gather_bytes
        yield from _one(model, "parameters", Collective.ALL_GATHER, num_bytes, inner, per_micro_batch=stage >= 3)
    reduced = count * runtime.gradient_reduce_bytes
    if stage == 0:
        yield from _all_reduce(model, count, group, per_micro_batch=False)
        return
    again = stage >= 2
    kind = Collective.ALL_TO_ALL if model.exchanges else Collective.REDUCE_SCATTER
    for one in _one(model, "gradients", kind, reduced, inner, per_micro_batch=again):
        yield _with_passes(one, model.exchange_local_s(count, shards)) if model.exchanges else one
    copies, inside = group.size // shards, max(1, group.ranks_per_node // inner.ranks_per_node)
    outer = Group(size=copies, ranks_per_node=gcd(copies, inside))
    yield from _all_reduce(model, count / shards, outer, per_micro_batch=again)


def _all_reduce(model: StateModel, count: float, group: Group, *, per_micro_batch: bool) -> Iterator[StateCollective]:
    num_bytes = count * model.runtime.gradient_reduce_bytes
    if not model.exchanges:
        yield from _one(model, "gradients", Collective.ALL_REDUCE, num_bytes, group, per_micro_batch=per_micro_batch)
        return
    for one in _one(model, "gradients", Collective.ALL_TO_ALL, num_bytes, group, per_micro_batch=per_micro_batch):
        yield _with_passes(one, model.exchange_back_s(count, group.size))
    yield from _one(model, "gradients", Collective.ALL_GATHER, num_bytes, group, per_micro_batch=per_micro_batch)


def _one(
    model: StateModel, kind: str, collective: Collective, num_bytes: float, group: Group, *, per_micro_batch: bool
) -> Iterator[StateCollective]:
    if group.size == 1 or num_bytes == 0:
        return
    work = CollectiveWork(collective=collective, num_bytes=num_bytes, group=group)
    yield StateCollective(
        kind=kind,
        collective=collective,
        num_bytes=num_bytes,
        group=group_words(work),
        algorithm=algorithm_of(work, model.cluster),
        time_s=operator_timing(work, model.cluster).time_s,
        per_micro_batch=per_micro_batch,
        formulas=names(formulas_of(work, model.cluster.profile)),
    )


def _with_passes(one: StateCollective, passes_s: float) -> StateCollective:
    """An exchange with the kernels around it."""
    return msgspec.structs.replace(one, time_s=one.time_s + passes_s, formulas=(*one.formulas, *names(EXCHANGE)))


def _update_formulas(model: StateModel) -> tuple[Formula, ...]:
    update = HOST_UPDATE if model.sharding.offload_optimizer else UPDATE
    return (*update, *NORM) if model.runtime.norm_reads_gradients else update
