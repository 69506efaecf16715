"""What a cluster is made of: GPU, links, nodes. The measured tables live in a `HardwareProfile`."""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec
from msgspec import UNSET, UnsetType

from meshwright.costmodel.errors import ClusterError, ProfileError
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.tables import (
    AttentionCurve,
    Citation,
    CustomKernelShare,
    GemmTable,
    GemmVariant,
    GroupedGemmLaw,
    GroupedGemmTable,
    LinkCurve,
    MemoryShare,
    check_fraction,
)
from meshwright.costmodel.value import Value

PROFILE_SCHEMA_VERSION = 2


class Basis(StrEnum):
    """What a predicted time rests on: a measured point, an interpolation between some, or a model beyond them."""

    MEASURED = "measured"
    INTERPOLATED = "interpolated"
    EXTRAPOLATED = "extrapolated"


def least_known(*bases: Basis) -> Basis:
    """What a figure made of several rests on: the least known of them.

    >>> least_known(Basis.MEASURED, Basis.EXTRAPOLATED, Basis.INTERPOLATED)
    <Basis.EXTRAPOLATED: 'extrapolated'>
    """
    return max(bases, key=list(Basis).index)


class Timing(Value, frozen=True, kw_only=True):
    """How long an operator occupies its resource, and what that figure rests on."""

    time_s: float
    basis: Basis


class GpuSpec(Value, frozen=True, kw_only=True):
    """One GPU. Rates are peaks of the data sheet, except `copy_bytes_per_s` and `pcie_bytes_per_s`, which copies reach.

    `fp8_flops_per_s` is 0 where there is no FP8. NVLink and PCIe count one direction. `usable_memory_bytes` is what a
    process can allocate before any buffer of ours: total less driver and CUDA context.
    """

    name: str
    num_sms: int
    bf16_flops_per_s: float
    fp8_flops_per_s: float
    memory_bytes: float
    usable_memory_bytes: float
    memory_bytes_per_s: float
    copy_bytes_per_s: float
    nvlink_bytes_per_s: float
    pcie_bytes_per_s: float

    def __post_init__(self) -> None:
        for field in GPU_FIGURES:
            value = getattr(self, field)
            if not (math.isfinite(value) and (value > 0.0 or (field == "fp8_flops_per_s" and value == 0.0))):
                raise ProfileError(self.name, f"gpu.{field}", f"{value} is not a positive finite number")
            if field.endswith("_per_s") and 0.0 < value < LEAST_RATE_PER_S:
                raise ProfileError(
                    self.name, f"gpu.{field}", f"{value:g} a second is too little; bytes and FLOPs count"
                )
        if self.usable_memory_bytes > self.memory_bytes:
            raise ProfileError(self.name, "gpu.usable_memory_bytes", "is more than gpu.memory_bytes")
        if self.copy_bytes_per_s > self.memory_bytes_per_s:
            raise ProfileError(self.name, "gpu.copy_bytes_per_s", "is more than gpu.memory_bytes_per_s")
        if self.pcie_bytes_per_s >= self.copy_bytes_per_s:
            raise ProfileError(self.name, "gpu.pcie_bytes_per_s", "is not less than gpu.copy_bytes_per_s")

    def peak_flops_per_s(self, precision: Precision) -> float:
        """Dense tensor-core peak; a `ProfileError` where the GPU lacks the format."""
        if precision is Precision.BF16:
            return self.bf16_flops_per_s
        if self.fp8_flops_per_s == 0.0:
            raise ProfileError(self.name, "precision", "this GPU has no FP8; choose precision bf16")
        return self.fp8_flops_per_s


LEAST_RATE_PER_S = 1e7
"""Less than any GPU or link moves or computes: a figure in GB or TFLOP."""

GPU_FIGURES = tuple(field for field in GpuSpec.__struct_fields__ if field != "name")


class LaunchCost(Value, frozen=True, kw_only=True):
    """Per kernel: host time in eager code (a collective's is longer) and in a CUDA graph, and the least GPU time."""

    eager_s: float
    collective_eager_s: float
    cuda_graph_s: float
    kernel_floor_s: float

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if not 0.0 <= value < MOST_LAUNCH_S:
                raise ProfileError(
                    "profile", f"launch.{field}", f"{value:g} s is no launch; expected 0 to {MOST_LAUNCH_S}"
                )


MOST_LAUNCH_S = 0.1


class Protocol(Value, frozen=True, kw_only=True):
    """One of NCCL's wire protocols: share of the bandwidth it reaches, fixed cost, cost of a hop beyond the link.

    A ring hop takes the link's latency plus `ring_*_extra_s`, a tree hop the link's latency plus `tree_*_extra_s`.
    """

    name: str
    ring_bandwidth_fraction: float
    ring_base_s: float
    ring_node_extra_s: float
    ring_network_extra_s: float
    tree_bandwidth_fraction: float
    tree_base_s: float
    tree_node_extra_s: float
    tree_network_extra_s: float

    def __post_init__(self) -> None:
        check_fraction(self.ring_bandwidth_fraction, f"network.{self.name}.ring_bandwidth_fraction")
        check_fraction(self.tree_bandwidth_fraction, f"network.{self.name}.tree_bandwidth_fraction")


class NetworkModel(Value, frozen=True, kw_only=True):
    """Constants of collectives: shares of an adapter's bandwidth that rings, pairwise exchange and messages reach.

    `nvlink_fraction`: best share of NVLink that rings reach, `nvls_fraction`: bus bandwidth of reductions in the switch
    over NVLink's. `peer_message_s`: cost of each message of a pairwise
    exchange, `message_base_s`: of a send/receive. `nvlink_latency_s`: hop latency inherent in the measured curves.
    """

    ring_fraction: float
    all_to_all_fraction: float
    message_fraction: float
    nvlink_fraction: float
    nvls_fraction: float
    message_base_s: float
    peer_message_s: float
    nvlink_latency_s: float
    protocols: tuple[Protocol, ...]

    def __post_init__(self) -> None:
        for field in ("ring_fraction", "all_to_all_fraction", "message_fraction", "nvlink_fraction"):
            check_fraction(getattr(self, field), f"network.{field}")
        if not self.protocols:
            raise ProfileError("profile", "network.protocols", "is empty; expected at least one protocol")


class SmShare(Value, frozen=True, kw_only=True):
    """Collectives inside a node on `num_sms` SMs instead of as many as the library takes.

    `time_factor`: seconds alone over those with the library's choice; the slowdowns as in `Interference`.
    """

    num_sms: int
    time_factor: float
    compute_slowdown: float
    communication_slowdown: float

    def __post_init__(self) -> None:
        if self.num_sms < 1:
            raise ProfileError("profile", "interference.shares.num_sms", f"{self.num_sms} is not 1 or more")
        if not (math.isfinite(self.time_factor) and self.time_factor > 0.0):
            raise ProfileError("profile", "interference.shares.time_factor", f"{self.time_factor} is not above 0")
        for field in ("compute_slowdown", "communication_slowdown"):
            _check_slowdown(f"interference.shares.{field}", getattr(self, field))


class Interference(Value, frozen=True, kw_only=True):
    """What running communication costs the compute beside it.

    `collective_sms`: SMs a collective's kernel takes; `compute_slowdown`: factor on compute while one runs inside a
    node; `communication_slowdown`: factor on the collective while compute runs. `network_*`: the same between nodes,
    where the adapter, not the SMs, sets the collective's pace. `shares`: other numbers of SMs that were measured.
    """

    collective_sms: int
    compute_slowdown: float
    communication_slowdown: float
    network_compute_slowdown: float = 1.1
    network_communication_slowdown: float = 1.0
    shares: tuple[SmShare, ...] = ()

    def __post_init__(self) -> None:
        for field in (name for name in self.__struct_fields__ if name.endswith("slowdown")):
            _check_slowdown(f"interference.{field}", getattr(self, field))
        slowest = max(self.compute_slowdown, *(share.compute_slowdown for share in self.shares), 1.0)
        if 1.0 / slowest + 1.0 / self.network_compute_slowdown <= 1.0:
            problem = f"{self.network_compute_slowdown} beside compute_slowdown {slowest} stops compute"
            raise ProfileError("profile", "interference.network_compute_slowdown", problem)
        taken = [self.collective_sms, *(share.num_sms for share in self.shares)]
        twice = sorted({num_sms for num_sms in taken if taken.count(num_sms) > 1})
        if twice:
            problem = f"{twice[0]} SMs stand twice, `collective_sms` included; orders tell shares by their SMs"
            raise ProfileError("profile", "interference.shares.num_sms", problem)

    def slowdowns(self, *, nvlink: bool) -> tuple[float, float]:
        """Factors on compute and on communication beside each other, inside a node or between nodes."""
        if nvlink:
            return self.compute_slowdown, self.communication_slowdown
        return self.network_compute_slowdown, self.network_communication_slowdown

    def on(self, share: SmShare) -> Interference:
        """With that share taken inside a node, and no other to choose."""
        return msgspec.structs.replace(
            self,
            collective_sms=share.num_sms,
            compute_slowdown=share.compute_slowdown,
            communication_slowdown=share.communication_slowdown,
            shares=(),
        )

    @property
    def network_sms(self) -> int:
        """SMs that a collective between nodes takes, if its cost to compute is the SMs that it takes, as NVLink's."""
        lost = 1.0 - 1.0 / self.compute_slowdown
        return round(self.collective_sms * (1.0 - 1.0 / self.network_compute_slowdown) / lost) if lost else 0


def _check_slowdown(field: str, factor: float) -> None:
    if not (math.isfinite(factor) and factor >= 1.0):
        raise ProfileError("profile", field, f"{factor} is not a factor of 1 or more")


class HardwareProfile(Value, frozen=True, kw_only=True):
    """One GPU type: its data sheet and measured tables, each figure with its source."""

    schema_version: int
    gpu: GpuSpec
    launch: LaunchCost
    network: NetworkModel
    interference: Interference
    nvls: bool
    gemm: tuple[GemmTable, ...]
    grouped_gemm: tuple[GroupedGemmTable, ...]
    attention: tuple[AttentionCurve, ...]
    memory: tuple[MemoryShare, ...]
    links: tuple[LinkCurve, ...]
    citations: tuple[Citation, ...]
    gemm_variants: tuple[GemmVariant, ...] = ()
    grouped_laws: tuple[GroupedGemmLaw, ...] = ()
    custom_kernels: tuple[CustomKernelShare, ...] = ()

    def __post_init__(self) -> None:
        if self.schema_version != PROFILE_SCHEMA_VERSION:
            raise ProfileError(
                self.gpu.name, "schema_version", f"{self.schema_version}; expected {PROFILE_SCHEMA_VERSION}"
            )
        cited = {citation.figure for citation in self.citations}
        for figure in (*(f"gpu.{field}" for field in GPU_FIGURES), "launch", "network", "interference", "nvls"):
            if figure not in cited:
                raise ProfileError(self.gpu.name, figure, "has no citation; expected its source in `citations`")


class ClusterSpec(Value, frozen=True, kw_only=True):
    """Nodes of equal GPUs and the network between them. Network figures count one GPU and one direction.

    `oversubscription` divides the bandwidth of all traffic between nodes. A part of one node is allowed.
    `nics_per_node`: network adapters of a node, which its GPUs share evenly; one a GPU where it is left out.
    """

    name: str
    profile: HardwareProfile
    gpus_per_node: int
    num_gpus: int
    network_bytes_per_s: float
    network_latency_s: float
    nvlink_latency_s: float
    oversubscription: float = 1.0
    host_memory_bytes: float
    mean_time_between_failures_s: float | None = None
    price_per_gpu_hour: float | None = None
    nics_per_node: int | UnsetType = UNSET

    def __post_init__(self) -> None:
        for field in ("gpus_per_node", "num_gpus", "num_nics"):
            if getattr(self, field) < 1:
                raise ClusterError(self.name, field, f"{getattr(self, field)} is not a positive whole number")
        for field in CLUSTER_FIGURES:
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise ClusterError(self.name, field, f"{value} is not a positive finite number")
        if not (math.isfinite(self.oversubscription) and self.oversubscription >= 1.0):
            raise ClusterError(self.name, "oversubscription", f"{self.oversubscription} is not a number >= 1")
        if self.num_gpus > self.gpus_per_node and self.num_gpus % self.gpus_per_node:
            raise ClusterError(
                self.name,
                "num_gpus",
                f"{self.num_gpus} GPUs are not a multiple of the {self.gpus_per_node} GPUs of a node",
            )

    @property
    def gpu(self) -> GpuSpec:
        """The GPU."""
        return self.profile.gpu

    @property
    def num_nodes(self) -> int:
        """Nodes, a partly used one included."""
        return -(-self.num_gpus // self.gpus_per_node)

    @property
    def num_nics(self) -> int:
        """Network adapters of a node."""
        return self.gpus_per_node if self.nics_per_node is UNSET else self.nics_per_node

    def with_gpus(self, num_gpus: int) -> ClusterSpec:
        """The same cluster with another number of GPUs."""
        return msgspec.structs.replace(self, num_gpus=num_gpus)


CLUSTER_FIGURES = (
    "network_bytes_per_s",
    "network_latency_s",
    "nvlink_latency_s",
    "host_memory_bytes",
    "mean_time_between_failures_s",
    "price_per_gpu_hour",
)
