"""How long collectives take: bytes on the wire, then links inside a node and rings, trees and pairs between nodes."""

from __future__ import annotations

import math

from meshwright.costmodel.program.operators import Collective


def wire_bytes(collective: Collective, num_bytes: float, size: int) -> float:
    """Bytes one rank sends, by ring and pairwise algorithms.

    Equation: all-gather, reduce-scatter, all-to-all S (g-1)/g; all-reduce 2 S (g-1)/g; send/recv S.
    Source: Thakur et al., Int. J. High Perform. Comput. Appl. 19(1), 2005; the bus bandwidth of nccl-tests.

    >>> wire_bytes(Collective.ALL_GATHER, 800.0, 8), wire_bytes(Collective.ALL_REDUCE, 800.0, 8)
    (700.0, 1400.0)
    """
    if collective is Collective.SEND_RECV:
        return num_bytes
    share = num_bytes * (size - 1) / size
    return 2.0 * share if collective is Collective.ALL_REDUCE else share


def scaled_link_s(measured_s: float, wire_s_measured: float, wire_s: float, peak_share: float) -> float:
    """A measured time carried over to another link: the part that is bandwidth scales, the rest stays.

    Equation: t' = max(t - w / p, 0) + w' / p; w, w' = wire bytes over the two links' bandwidths, p = best share of
    the bandwidth that was ever measured.
    Source: alpha-beta model (Hockney, Parallel Comput. 20(3), 1994) with the measured curve as its alpha.

    >>> scaled_link_s(measured_s=3.0, wire_s_measured=1.6, wire_s=3.2, peak_share=0.8)
    5.0
    """
    return max(measured_s - wire_s_measured / peak_share, 0.0) + wire_s / peak_share


def ring_latency_s(steps: int, network_steps: int, base_s: float, node_step_s: float, network_step_s: float) -> float:
    """Latency of a ring: one hop after the other, those between nodes slower. Linear in ranks.

    Equation: base + (steps - network steps) node hop + network steps * network hop.
    Source: NCCL, src/graph/tuning.cc, `ncclTopoTuneModel` (hwLat, baseLat).

    >>> round(ring_latency_s(15, 1, 8.4, 3.4, 9.6), 6)
    65.6
    """
    return base_s + (steps - network_steps) * node_step_s + network_steps * network_step_s


def tree_latency_s(
    ranks_per_node: int, num_nodes: int, base_s: float, node_step_s: float, network_step_s: float
) -> float:
    """Latency of an all-reduce by trees, up and down. Logarithmic in nodes.

    Equation: base + 2 ((r - 1) node hop + log2(N) network hop).
    Source: NCCL, src/graph/tuning.cc, `ncclTopoTuneModel`, algorithm tree.

    >>> round(tree_latency_s(8, 4, 4.4, 0.5, 5.0), 6)
    31.4
    """
    return base_s + 2.0 * ((ranks_per_node - 1) * node_step_s + math.log2(num_nodes) * network_step_s)


def ring_network_s(sent_bytes: float, ranks_per_node: int, network_bytes_per_s: float) -> float:
    """Time rings spend on the network: what a rank sends crosses each node's border once, over all its adapters.

    Equation: wire bytes / (r B); r rings, each leaving the node through the adapter of another of its r ranks.
    Source: NCCL rings: DGX H100, 32 GPUs, all-reduce bus bandwidth 370 GB/s = 8 adapters of 50 GB/s at 92 %.

    >>> ring_network_s(sent_bytes=400.0, ranks_per_node=8, network_bytes_per_s=50.0)
    1.0
    """
    return sent_bytes / (ranks_per_node * network_bytes_per_s)


def all_to_all_network_s(num_bytes: float, size: int, ranks_per_node: int, network_bytes_per_s: float) -> float:
    """Time pairwise exchange spends on the network: each rank sends to all ranks of other nodes through its adapter.

    Equation: S (g - r) / g / B.
    Source: definition; DGX H100, 32 GPUs: bus bandwidth 48 GB/s, that is 37 GB/s an adapter (NCCL, GTC 2024).

    >>> all_to_all_network_s(num_bytes=32.0, size=32, ranks_per_node=8, network_bytes_per_s=2.0)
    12.0
    """
    return num_bytes * (size - ranks_per_node) / size / network_bytes_per_s


def message_s(num_bytes: float, base_s: float, latency_s: float, bytes_per_s: float) -> float:
    """Time of one message between nodes.

    Equation: base + latency + S / B.
    Source: alpha-beta model (Hockney, Parallel Comput. 20(3), 1994).

    >>> message_s(num_bytes=100.0, base_s=1.0, latency_s=2.0, bytes_per_s=50.0)
    5.0
    """
    return base_s + latency_s + num_bytes / bytes_per_s
