"""What a cluster has of each resource that could be bought, and the same cluster with more of it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.hardware import ClusterSpec, GpuSpec
from meshwright.costmodel.value import Value


class Resource(Value, frozen=True, kw_only=True):
    """A resource in a unit that people buy it in: `unit_size` of SI each. `with_amount` gives a cluster that much.

    `what`: what the amount is, and what stays as it is.
    """

    name: str
    what: str
    unit: str
    unit_size: float
    amount: Callable[[ClusterSpec], float]
    with_amount: Callable[[ClusterSpec, float], ClusterSpec]


def resources_of(configuration: TrainingConfiguration) -> tuple[Resource, ...]:
    """The resources that can matter to a configuration: PCIe where something is offloaded, a network between nodes."""
    cluster = configuration.cluster
    offloads = any(strategy.offload for stage in configuration.stages for strategy in stage)
    present = {
        "network": cluster.num_nodes > 1,
        "nvlink": cluster.gpus_per_node > 1 and cluster.num_gpus > 1,
        "pcie": offloads or configuration.sharding.offload_optimizer,
    }
    return tuple(resource for resource in RESOURCES if present.get(resource.name, True))


def _with_gpu(cluster: ClusterSpec, **figures: float) -> ClusterSpec:
    profile = cluster.profile
    gpu = msgspec.structs.replace(profile.gpu, **figures)
    return msgspec.structs.replace(cluster, profile=msgspec.structs.replace(profile, gpu=gpu))


def _gpu_figure(name: str) -> Callable[[ClusterSpec], float]:
    def amount(cluster: ClusterSpec) -> float:
        value: float = getattr(cluster.gpu, name)
        return value

    return amount


def _scaled(cluster: ClusterSpec, leading: str, amount: float, *following: str) -> ClusterSpec:
    """A figure of the GPU set, and others with it in proportion."""
    gpu: GpuSpec = cluster.gpu
    factor = amount / getattr(gpu, leading)
    return _with_gpu(cluster, **{leading: amount}, **{name: getattr(gpu, name) * factor for name in following})


def _with_memory(cluster: ClusterSpec, amount: float) -> ClusterSpec:
    """More usable memory; what driver and context take stays."""
    more = amount - cluster.gpu.usable_memory_bytes
    return _with_gpu(cluster, usable_memory_bytes=amount, memory_bytes=cluster.gpu.memory_bytes + more)


RESOURCES = (
    Resource(
        name="memory",
        what="usable memory of a GPU",
        unit="GB",
        unit_size=1e9,
        amount=_gpu_figure("usable_memory_bytes"),
        with_amount=_with_memory,
    ),
    Resource(
        name="compute",
        what="peak of matrix products, efficiencies held",
        unit="TFLOP/s",
        unit_size=1e12,
        amount=_gpu_figure("bf16_flops_per_s"),
        with_amount=lambda cluster, amount: _scaled(cluster, "bf16_flops_per_s", amount, "fp8_flops_per_s"),
    ),
    Resource(
        name="memory bandwidth",
        what="memory bandwidth of a GPU, reached by copies",
        unit="GB/s",
        unit_size=1e9,
        amount=_gpu_figure("copy_bytes_per_s"),
        with_amount=lambda cluster, amount: _scaled(cluster, "copy_bytes_per_s", amount, "memory_bytes_per_s"),
    ),
    Resource(
        name="nvlink",
        what="NVLink of a GPU, one way",
        unit="GB/s",
        unit_size=1e9,
        amount=_gpu_figure("nvlink_bytes_per_s"),
        with_amount=lambda cluster, amount: _scaled(cluster, "nvlink_bytes_per_s", amount),
    ),
    Resource(
        name="network",
        what="network of a GPU, one way",
        unit="GB/s",
        unit_size=1e9,
        amount=lambda cluster: cluster.network_bytes_per_s,
        with_amount=lambda cluster, amount: msgspec.structs.replace(cluster, network_bytes_per_s=amount),
    ),
    Resource(
        name="pcie",
        what="PCIe of a GPU, one way",
        unit="GB/s",
        unit_size=1e9,
        amount=_gpu_figure("pcie_bytes_per_s"),
        with_amount=lambda cluster, amount: _scaled(cluster, "pcie_bytes_per_s", amount),
    ),
    Resource(
        name="gpus",
        what="GPUs, for the same global batch",
        unit="GPU",
        unit_size=1.0,
        amount=lambda cluster: float(cluster.num_gpus),
        with_amount=lambda cluster, amount: cluster.with_gpus(round(amount)),
    ),
)
