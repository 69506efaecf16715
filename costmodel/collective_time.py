"""How long a collective takes on the topology: measured curves inside a node, NCCL's algorithms between nodes."""

from __future__ import annotations

from math import log2

from meshwright.costmodel.formulas.collectives import (
    all_to_all_network_s,
    message_s,
    ring_latency_s,
    ring_network_s,
    scaled_link_s,
    tree_latency_s,
    wire_bytes,
)
from meshwright.costmodel.hardware import Basis, ClusterSpec, Protocol, Timing
from meshwright.costmodel.prepared import LinkModel, PreparedProfile
from meshwright.costmodel.program.operators import Collective, CollectiveWork, Group

CALIBRATED_NODES = 8


def collective_timing(work: CollectiveWork, cluster: ClusterSpec, tables: PreparedProfile) -> Timing:
    """Seconds a collective occupies its link while all groups of the same shape run theirs."""
    group, num_bytes = work.group, work.num_bytes
    if group.size == 1 or num_bytes == 0.0:
        return Timing(time_s=0.0, basis=Basis.MEASURED)
    if group.num_nodes == 1:
        return _inside_node(work.collective, num_bytes, group.size, cluster, tables)
    basis = Basis.INTERPOLATED if group.num_nodes <= CALIBRATED_NODES else Basis.EXTRAPOLATED
    return Timing(time_s=min(algorithm_times_s(work, cluster, tables).values()), basis=basis)


def algorithm_times_s(work: CollectiveWork, cluster: ClusterSpec, tables: PreparedProfile) -> dict[str, float]:
    """Seconds of a collective between nodes by each algorithm and protocol that it could use; the fastest is taken."""
    match work.collective:
        case Collective.SEND_RECV:
            return {"message": _message(work.num_bytes, cluster)}
        case Collective.ALL_TO_ALL:
            return {"pairwise": _all_to_all(work.num_bytes, work.group, cluster, tables)}
    protocols = cluster.profile.network.protocols
    times_s = {f"ring {protocol.name}": _ring(work, cluster, protocol) for protocol in protocols}
    if work.collective is Collective.ALL_REDUCE:
        times_s |= {f"tree {protocol.name}": _tree(work, cluster, protocol) for protocol in protocols}
    return times_s


def network_bytes_per_s(cluster: ClusterSpec) -> float:
    """Bandwidth between nodes for one GPU, one way, oversubscription included."""
    return cluster.network_bytes_per_s / cluster.oversubscription


def _inside_node(
    collective: Collective, num_bytes: float, size: int, cluster: ClusterSpec, tables: PreparedProfile
) -> Timing:
    """The measured curve of this group size, or between the neighbouring sizes; carried over to the cluster's link."""
    models = tables.link(collective)
    low = models[max((s for s in models if s <= size), default=min(models))]
    high = models[min((s for s in models if s >= size), default=max(models))]
    time_s = _on_link(collective, num_bytes, size, low, cluster)
    if high is not low:
        u = log2(size / low.group_size) / log2(high.group_size / low.group_size)
        time_s = (1.0 - u) * time_s + u * _on_link(collective, num_bytes, size, high, cluster)
    hops = 1 if collective in (Collective.SEND_RECV, Collective.ALL_TO_ALL) else size - 1
    extra = hops * max(0.0, cluster.nvlink_latency_s - cluster.profile.network.nvlink_latency_s)
    same_link = low.link_bytes_per_s == cluster.gpu.nvlink_bytes_per_s
    known = high is low and low.group_size == size and same_link
    basis = low.curve.basis(num_bytes) if known else Basis.EXTRAPOLATED if not same_link else Basis.INTERPOLATED
    return Timing(time_s=time_s + extra, basis=basis)


def _on_link(collective: Collective, num_bytes: float, size: int, model: LinkModel, cluster: ClusterSpec) -> float:
    """A curve of another group size or link: its latency part stays, its bandwidth part is computed."""
    measured_s = model.curve(num_bytes)
    wire_measured = wire_bytes(collective, num_bytes, model.group_size) / model.link_bytes_per_s
    wire = wire_bytes(collective, num_bytes, size) / cluster.gpu.nvlink_bytes_per_s
    if wire == wire_measured:
        return measured_s
    return scaled_link_s(measured_s, wire_measured, wire, model.peak_share)


def _message(num_bytes: float, cluster: ClusterSpec) -> float:
    network = cluster.profile.network
    rate = network.message_fraction * network_bytes_per_s(cluster)
    return message_s(num_bytes, network.message_base_s, cluster.network_latency_s, rate)


def _all_to_all(num_bytes: float, group: Group, cluster: ClusterSpec, tables: PreparedProfile) -> float:
    """Pairwise exchange: the network's and the node's part at the same time, after a start per remote peer."""
    network = cluster.profile.network
    rate = network.all_to_all_fraction * network_bytes_per_s(cluster)
    between = all_to_all_network_s(num_bytes, group.size, group.ranks_per_node, rate)
    inside = 0.0
    if group.ranks_per_node > 1:
        local_bytes = num_bytes * group.ranks_per_node / group.size
        inside = _inside_node(Collective.ALL_TO_ALL, local_bytes, group.ranks_per_node, cluster, tables).time_s
    starts = (group.size - group.ranks_per_node) * network.peer_message_s
    return network.message_base_s + cluster.network_latency_s + starts + max(between, inside)


def _ring(work: CollectiveWork, cluster: ClusterSpec, protocol: Protocol) -> float:
    group, network = work.group, cluster.profile.network
    rounds = 2 if work.collective is Collective.ALL_REDUCE else 1
    latency = ring_latency_s(
        rounds * (group.size - 1),
        rounds * (group.num_nodes - 1),
        protocol.ring_base_s,
        cluster.nvlink_latency_s + protocol.ring_node_extra_s,
        cluster.network_latency_s + protocol.ring_network_extra_s,
    )
    sent = wire_bytes(work.collective, work.num_bytes, group.size) / protocol.ring_bandwidth_fraction
    between = ring_network_s(sent, group.ranks_per_node, network.ring_fraction * network_bytes_per_s(cluster))
    inside = sent / (network.nvlink_fraction * cluster.gpu.nvlink_bytes_per_s) if group.ranks_per_node > 1 else 0.0
    return latency + max(between, inside)


def _tree(work: CollectiveWork, cluster: ClusterSpec, protocol: Protocol) -> float:
    """All-reduce by trees: each node sends the buffer up and down, with two nodes only once."""
    group, network = work.group, cluster.profile.network
    latency = tree_latency_s(
        group.ranks_per_node,
        group.num_nodes,
        protocol.tree_base_s,
        cluster.nvlink_latency_s + protocol.tree_node_extra_s,
        cluster.network_latency_s + protocol.tree_network_extra_s,
    )
    sent = work.num_bytes * (1.0 if group.num_nodes == 2 else 2.0) / protocol.tree_bandwidth_fraction
    between = ring_network_s(sent, group.ranks_per_node, network.ring_fraction * network_bytes_per_s(cluster))
    fraction = (
        network.nvls_fraction if cluster.profile.nvls else network.nvlink_fraction * protocol.tree_bandwidth_fraction
    )
    node_bytes = wire_bytes(work.collective, work.num_bytes, group.size) if group.ranks_per_node > 1 else 0.0
    inside = node_bytes / (fraction * cluster.gpu.nvlink_bytes_per_s)
    return latency + max(between, inside)
