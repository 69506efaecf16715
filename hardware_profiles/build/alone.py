"""A profile as a cluster of one node, to ask how long an operator takes there."""

from __future__ import annotations

from meshwright.costmodel.hardware import ClusterSpec, HardwareProfile

GPUS_PER_NODE = 8
NO_NETWORK_BYTES_PER_S = 1.0
HOST_BYTES = 1.0


def one_node(profile: HardwareProfile, gpus_per_node: int = GPUS_PER_NODE) -> ClusterSpec:
    """One node of such GPUs with links as in the profile; nothing between nodes may be asked of it."""
    return ClusterSpec(
        name=profile.gpu.name,
        profile=profile,
        gpus_per_node=gpus_per_node,
        num_gpus=gpus_per_node,
        network_bytes_per_s=NO_NETWORK_BYTES_PER_S,
        network_latency_s=1.0,
        nvlink_latency_s=profile.network.nvlink_latency_s,
        host_memory_bytes=HOST_BYTES,
    )
