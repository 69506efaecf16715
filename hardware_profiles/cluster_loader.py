"""Clusters from YAML: a GPU profile, nodes, links, every quantity with its unit. The keys are `CLUSTER_KEYS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isclose, isfinite
from pathlib import Path
from typing import Any

import msgspec
import yaml

from meshwright.costmodel.errors import ClusterError, ProfileError
from meshwright.costmodel.hardware import ClusterSpec, HardwareProfile
from meshwright.costmodel.units import Dimension, parse_quantity
from meshwright.hardware_profiles.naming import find_file, names_in, nearest, read_text
from meshwright.hardware_profiles.profile_loader import load_profile

CLUSTER_FOLDER = Path(__file__).parent / "clusters"
FLOPS, RATE, SIZE, TIME = Dimension.FLOPS_PER_S, Dimension.BYTES_PER_S, Dimension.BYTES, Dimension.SECONDS


@dataclass(frozen=True)
class Key:
    """One key of the YAML file: how its value is read, whether it must be there, and what it means."""

    read: Callable[[str, str, object], Any]
    required: bool
    meaning: str


def _quantity(dimension: Dimension) -> Callable[[str, str, object], float]:
    def read(where: str, field: str, value: object) -> float:
        return parse_quantity(value, dimension, where=where, field=field, error=ClusterError)

    return read


def _count(where: str, field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ClusterError(where, field, f"{value!r} is not a positive whole number")
    return value


def _number(where: str, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
        raise ClusterError(where, field, f"{value!r} is not a positive number")
    return float(value)


def _text(where: str, field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ClusterError(where, field, f"{value!r} is not a text")
    return value


CLUSTER_KEYS = {
    "name": Key(_text, True, "what the cluster is called"),
    "gpu": Key(_text, True, "hardware profile: a shipped name or a JSON file, relative to the cluster file"),
    "gpus_per_node": Key(_count, True, "GPUs that share NVLink"),
    "num_gpus": Key(_count, False, "GPUs in all; without it, one node unless the command line says"),
    "network": Key(_quantity(RATE), False, "bandwidth of the network for one GPU, one way, as in 400 Gbit/s"),
    "nic": Key(_quantity(RATE), False, "bandwidth of one network adapter, one way; stands for `network` with the next"),
    "nics_per_node": Key(_count, False, "network adapters that the GPUs of a node share; without it, one a GPU"),
    "network_latency": Key(_quantity(TIME), True, "latency of a small message between nodes"),
    "nvlink": Key(_quantity(RATE), False, "NVLink of one GPU, one way, where it differs from the profile"),
    "nvlink_latency": Key(_quantity(TIME), True, "latency of a hop inside a node"),
    "memory": Key(_quantity(SIZE), False, "memory of one GPU that can be used, where it differs from the profile"),
    "oversubscription": Key(_number, False, "bandwidth of leaves over bandwidth between them, at least 1"),
    "host_memory": Key(_quantity(SIZE), True, "memory of a node's host"),
    "mean_time_between_failures": Key(_quantity(TIME), False, "of one GPU with its share of the node"),
    "price_per_gpu_hour": Key(_number, False, "in any currency"),
}


def preset_names() -> tuple[str, ...]:
    """Names of the shipped clusters."""
    return names_in(CLUSTER_FOLDER, ".yaml")


def load_cluster(name_or_yaml_path: str | Path, *, num_gpus: int | None = None) -> ClusterSpec:
    """A shipped cluster by name, or one from a YAML file, with `num_gpus` GPUs if given; else a `ClusterError`."""
    path = find_file(name_or_yaml_path, CLUSTER_FOLDER, ".yaml", ClusterError, "cluster")
    cluster = _load(path)
    return cluster if num_gpus is None else cluster.with_gpus(num_gpus)


@lru_cache(maxsize=32)
def _load(path: Path) -> ClusterSpec:
    where = str(path)
    values = _read_values(where, _mapping(path))
    values.setdefault("num_gpus", values["gpus_per_node"])
    optional = {
        name: values[key]
        for name, key in (
            ("oversubscription", "oversubscription"),
            ("mean_time_between_failures_s", "mean_time_between_failures"),
            ("price_per_gpu_hour", "price_per_gpu_hour"),
            ("nics_per_node", "nics_per_node"),
        )
        if key in values
    }
    fields = {
        "name": values["name"],
        "profile": _profile(path, values),
        "gpus_per_node": values["gpus_per_node"],
        "num_gpus": values["num_gpus"],
        "network_bytes_per_s": _network_bytes_per_s(where, values),
        "network_latency_s": values["network_latency"],
        "nvlink_latency_s": values["nvlink_latency"],
        "host_memory_bytes": values["host_memory"],
        **optional,
    }
    try:
        return ClusterSpec(**fields)
    except ClusterError as problem:  # names the cluster
        raise ClusterError(where, problem.field, problem.problem) from problem


def _network_bytes_per_s(where: str, values: dict[str, Any]) -> float:
    """What one GPU has of its node's adapters: as given, or nics x nic / GPUs of a node; both must agree."""
    if "nic" not in values:
        return float(values["network"])
    share = values["nic"] * values.get("nics_per_node", values["gpus_per_node"]) / values["gpus_per_node"]
    if "network" in values and not isclose(values["network"], share, rel_tol=1e-9):
        raise ClusterError(
            where,
            "network",
            f"{values['network'] / 1e9:g} GB/s for one GPU, but its share of the node's adapters (`nic`) is"
            f" {share / 1e9:g} GB/s; leave one of them out",
        )
    return float(share)


def _mapping(path: Path) -> dict[str, object]:
    try:
        data = yaml.load(read_text(path, ClusterError), Loader=_StrictLoader)
    except yaml.YAMLError as problem:
        raise ClusterError(str(path), "", f"is not YAML: {' '.join(str(problem).split())}") from problem
    if not isinstance(data, dict):
        raise ClusterError(str(path), "", "expected a mapping of keys to values, as in `gpus_per_node: 8`")
    return data


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _read_values(where: str, data: dict[str, object]) -> dict[str, Any]:
    _check_keys(where, data)
    return {key: CLUSTER_KEYS[key].read(where, key, value) for key, value in data.items()}


def _check_keys(where: str, data: dict[str, object]) -> None:
    """Raise `ClusterError` with all keys that are unknown or missing."""
    unknown = {str(key): f"unknown key{nearest(str(key), CLUSTER_KEYS)}" for key in data if key not in CLUSTER_KEYS}
    absent = [key for key, description in CLUSTER_KEYS.items() if description.required and key not in data]
    absent += ["network"] * ("network" not in data and "nic" not in data)
    problems = unknown | {key: f"is missing; expected {CLUSTER_KEYS[key].meaning}" for key in absent}
    if not problems:
        return
    (key, first), *others = problems.items()
    rest = "".join(f"; {other}: {problem}" for other, problem in others)
    known = f"; known are {', '.join(CLUSTER_KEYS)}" if unknown else ""
    raise ClusterError(where, key, f"{first}{rest}{known}")


def _profile(path: Path, values: dict[str, Any]) -> HardwareProfile:
    try:
        profile = load_profile(_profile_name(path, values["gpu"]))
    except ProfileError as problem:
        raise ClusterError(str(path), "gpu", str(problem)) from problem
    changes = {
        field: values[key]
        for field, key in (("nvlink_bytes_per_s", "nvlink"), ("usable_memory_bytes", "memory"))
        if key in values
    }
    try:
        return msgspec.structs.replace(profile, gpu=msgspec.structs.replace(profile.gpu, **changes))
    except ProfileError as problem:
        raise ClusterError(str(path), problem.field, problem.problem) from problem


def _profile_name(path: Path, gpu: str) -> str:
    beside = path.parent / gpu
    return str(beside) if beside.suffix == ".json" and beside.is_file() else gpu
