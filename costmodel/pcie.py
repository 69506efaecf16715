"""The PCIe link of a GPU, which copies to the host and the network adapter share."""

from __future__ import annotations

from meshwright.costmodel.hardware import ClusterSpec


def network_share_of_pcie(cluster: ClusterSpec) -> float:
    """Share of a GPU's PCIe link that the network takes while it runs at its full rate."""
    return min(1.0, cluster.network_bytes_per_s / cluster.gpu.pcie_bytes_per_s)
