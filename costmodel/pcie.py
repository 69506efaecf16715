"""The PCIe link of a GPU, which copies to the host and the network adapter share."""

from __future__ import annotations

from meshwright.costmodel.hardware import ClusterSpec, GpuSpec


def network_share_of_pcie(cluster: ClusterSpec) -> float:
    """Share of a GPU's PCIe link that the network takes while it runs at its full rate."""
    return min(1.0, cluster.network_bytes_per_s / cluster.gpu.pcie_bytes_per_s)


def memory_share_of_copies(gpu: GpuSpec) -> float:
    """Share of a GPU's memory bandwidth that a copy over PCIe takes, which computation bound by memory loses."""
    return gpu.pcie_bytes_per_s / gpu.copy_bytes_per_s
