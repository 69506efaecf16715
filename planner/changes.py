"""The fields that `--set` can change: how a value is read, and where it belongs in the draft of a configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from math import isfinite
from typing import Any

import msgspec

from meshwright.costmodel.errors import InputError, StrategyError
from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import AxisOrder, Dispatch, Recompute, ZeroStage
from meshwright.costmodel.units import Dimension, parse_quantity
from meshwright.costmodel.value import Value
from meshwright.hardware_profiles import load_profile, profile_names
from meshwright.planner.cluster_record import with_link_and_memory
from meshwright.planner.draft import Draft

OPTION = "--set"
_FACTOR = re.compile(r"(\d+\.?\d*|\.\d+)x")


class Change(Value, frozen=True, kw_only=True):
    """A field: `read(text, before)` gives its value, `get` and `put` reach it. `dimension`: of a physical quantity."""

    read: Callable[[str, str, Any], Any]
    get: Callable[[Draft], Any]
    put: Callable[[Draft, Any], Draft]
    dimension: Dimension | None = None


# How values are read. `key` is named in errors, `before` is what a factor such as 2x multiplies.


def _count(key: str, text: str, before: Any) -> int:  # noqa: ANN401, ARG001  one signature for all readers
    if not text.isdecimal() or int(text) < 1:
        raise InputError(OPTION, key, f"{text!r} is not a positive whole number")
    return int(text)


def _number(key: str, text: str, before: Any) -> float:  # noqa: ANN401, ARG001
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and value >= 1.0):
        raise InputError(OPTION, key, f"{text!r} is not a number >= 1")
    return value


def _choice(kind: type[StrEnum]) -> Callable[[str, str, Any], StrEnum]:
    def read(key: str, text: str, before: Any) -> StrEnum:  # noqa: ANN401, ARG001
        if text not in [member.value for member in kind]:
            raise InputError(OPTION, key, f"{text!r} is unknown; expected one of {', '.join(kind)}")
        return kind(text)

    return read


def _profile(key: str, text: str, before: Any) -> str:  # noqa: ANN401, ARG001
    if text not in profile_names():
        raise InputError(OPTION, key, f"{text!r} is unknown; expected one of {', '.join(profile_names())}")
    return text


def _quantity(dimension: Dimension) -> Callable[[str, str, Any], float]:
    """A quantity with its unit, a plain number of SI units, or a factor on what it was, as in 2x."""

    def read(key: str, text: str, before: Any) -> float:  # noqa: ANN401
        factor = _FACTOR.fullmatch(text)
        try:
            value = float(factor[1]) * before if factor else float(text)
        except ValueError:
            return parse_quantity(text, dimension, where=OPTION, field=key)
        if not (isfinite(value) and value > 0.0):
            raise InputError(OPTION, key, f"{text!r} is not a positive finite quantity, as in {dimension.value} or 2x")
        return value

    return read


# Where values lie.


def _field(read: Callable[[str, str, Any], Any], section: str, name: str, dimension: Dimension | None = None) -> Change:
    """A field of one of the draft's parts."""

    def put(draft: Draft, value: Any) -> Draft:  # noqa: ANN401
        part = msgspec.structs.replace(getattr(draft, section), **{name: value})
        return msgspec.structs.replace(draft, **{section: part})

    return Change(read=read, get=lambda draft: getattr(getattr(draft, section), name), put=put, dimension=dimension)


def _cluster_quantity(name: str, dimension: Dimension) -> Change:
    return _field(_quantity(dimension), "cluster", name, dimension)


def _gpu_quantity(name: str, dimension: Dimension) -> Change:
    """NVLink or usable memory: figures of the GPU that a cluster may change."""

    def put(draft: Draft, value: float) -> Draft:
        gpu = draft.cluster.gpu
        figures = {
            "nvlink_bytes_per_s": gpu.nvlink_bytes_per_s,
            "usable_memory_bytes": gpu.usable_memory_bytes,
            name: value,
        }
        return _with_profile(draft, with_link_and_memory(draft.cluster.profile, **figures))

    return Change(
        read=_quantity(dimension), get=lambda draft: getattr(draft.cluster.gpu, name), put=put, dimension=dimension
    )


def _with_profile(draft: Draft, profile: HardwareProfile) -> Draft:
    return msgspec.structs.replace(draft, cluster=msgspec.structs.replace(draft.cluster, profile=profile))


def _put_num_gpus(draft: Draft, num_gpus: int) -> Draft:
    """Another number of GPUs: data parallelism takes it up, everything else stays."""
    replica = draft.mesh.pp * draft.mesh.replica_gpus
    if num_gpus % replica:
        below = num_gpus // replica * replica
        ways = " or ".join(str(near) for near in (below, below + replica) if near)
        raise StrategyError(
            "cluster",
            "num_gpus",
            f"{num_gpus} GPUs are not a multiple of the {replica} of a replica (pp x cp x sp x tp), so dp cannot take"
            f" the change up; the nearest are {ways}",
        )
    return msgspec.structs.replace(
        draft,
        cluster=draft.cluster.with_gpus(num_gpus),
        mesh=msgspec.structs.replace(draft.mesh, dp=num_gpus // replica),
    )


def _strategy_field(kind: type[StrEnum], name: str) -> Change:
    """A choice that all layers make alike; before, it may differ between layers."""

    def get(draft: Draft) -> str:
        return ", ".join(dict.fromkeys(getattr(strategy, name).value for strategy in draft.strategies))

    def put(draft: Draft, value: StrEnum) -> Draft:
        strategies = tuple(msgspec.structs.replace(strategy, **{name: value}) for strategy in draft.strategies)
        return msgspec.structs.replace(draft, strategies=strategies)

    return Change(read=_choice(kind), get=get, put=put)


CHANGES: dict[str, Change] = {
    "cluster.gpu": Change(
        read=_profile,
        get=lambda draft: draft.cluster.gpu.name,
        put=lambda draft, name: _with_profile(draft, load_profile(name)),
    ),
    "cluster.num_gpus": Change(read=_count, get=lambda draft: draft.cluster.num_gpus, put=_put_num_gpus),
    "cluster.network_bytes_per_s": _cluster_quantity("network_bytes_per_s", Dimension.BYTES_PER_S),
    "cluster.network_latency_s": _cluster_quantity("network_latency_s", Dimension.SECONDS),
    "cluster.nvlink_bytes_per_s": _gpu_quantity("nvlink_bytes_per_s", Dimension.BYTES_PER_S),
    "cluster.nvlink_latency_s": _cluster_quantity("nvlink_latency_s", Dimension.SECONDS),
    "cluster.oversubscription": _field(_number, "cluster", "oversubscription"),
    "cluster.usable_memory_bytes": _gpu_quantity("usable_memory_bytes", Dimension.BYTES),
    "workload.global_batch": _field(_count, "workload", "global_batch"),
    "workload.seq_len": _field(_count, "workload", "seq_len"),
    "workload.precision": _field(_choice(Precision), "workload", "precision"),
    "workload.expert_imbalance": _field(_number, "workload", "expert_imbalance"),
    "mesh.order": _field(_choice(AxisOrder), "mesh", "order"),
    "sharding.zero": _field(_choice(ZeroStage), "sharding", "zero"),
    "pipeline.schedule": _field(_choice(ScheduleKind), "pipeline", "schedule"),
    "pipeline.virtual_stages": _field(_count, "pipeline", "virtual_stages"),
    "pipeline.micro_batch_size": _field(_count, "pipeline", "micro_batch"),
    "layers.recompute": _strategy_field(Recompute, "recompute"),
    "layers.dispatch": _strategy_field(Dispatch, "dispatch"),
}
"""Every key of `--set`, in the order in which changes are made: a GPU first, then what differs from it."""
