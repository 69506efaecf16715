"""Activations that wait in host memory: the FFN's widest kept tensors leave after the forward and return for backward.

The copy engines move them over PCIe beside the whole pass, on the link that the network adapter uses, too; only what
exceeds the pass is exposed. Their use of GPU memory bandwidth (a few percent of it) is left out. Two layers' tensors
are on the GPU at a time: the one in use and the one under way.
"""

from __future__ import annotations

import msgspec

from meshwright.costmodel.formulas.memory import PCIE_FRACTION
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.layer_cost import LayerCost, Terms
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.strategy import Recompute

OFFLOADED = ("fc1_out", "fc3_out", "shared_fc1_out", "shared_fc3_out")


def offloaded_bytes(program: LayerProgram, recompute: Recompute) -> float:
    """Bytes of one micro-batch that leave the GPU."""
    sizes, kept = program.sizes(), plan_backward(program, recompute).kept
    return sum(sizes[name] for name in OFFLOADED if name in kept)


def with_offload(cost: LayerCost, num_bytes: float, cluster: ClusterSpec) -> LayerCost:
    """The cost of a layer whose widest tensors wait in host memory."""
    copy_s = num_bytes / (PCIE_FRACTION * cluster.gpu.pcie_bytes_per_s)
    share = network_share_of_pcie(cluster)
    return msgspec.structs.replace(
        cost,
        forward=_beside(cost.forward, copy_s, share),
        backward=_beside(cost.backward, copy_s, share),
        dgrad=_beside(cost.dgrad, copy_s, share),
        kept_bytes=cost.kept_bytes - num_bytes,
        transient_bytes=cost.transient_bytes + 2.0 * num_bytes,
    )


def network_share_of_pcie(cluster: ClusterSpec) -> float:
    """Share of a GPU's PCIe link that the network takes while it runs at its full rate."""
    return min(1.0, cluster.network_bytes_per_s / (PCIE_FRACTION * cluster.gpu.pcie_bytes_per_s))


def _beside(terms: Terms, copy_s: float, network_share: float) -> Terms:
    network_s = network_share * (terms.hidden_network_s + terms.exposed_network_s)
    exposed_s = min(copy_s, max(0.0, copy_s + network_s - terms.total_s))
    return msgspec.structs.replace(terms, exposed_pcie_s=exposed_s, hidden_pcie_s=copy_s - exposed_s)
