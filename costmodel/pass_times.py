"""The ordering problem of a pass on a cluster: its operators with their seconds, and what they cost one another."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.alone import alone
from meshwright.costmodel.formulas.experts import forwarded_s
from meshwright.costmodel.hardware import ClusterSpec, Interference, SmShare
from meshwright.costmodel.order.launch_order import PassOrder
from meshwright.costmodel.order.pass_problem import PassProblem, pass_problem
from meshwright.costmodel.pcie import memory_share_of_copies, network_share_of_pcie
from meshwright.costmodel.program.operators import Axis, Collective, CollectiveWork, Operator, Resource, Work
from meshwright.costmodel.runtime import RuntimeSpec

COPY_ENGINE_SLOWDOWN = 132 / 128
"""Computation beside Transformer Engine's userbuffers: ring exchange by copy engines, or four SMs (MLPerf training
3.1, NVIDIA gpt3 config: FC2_FPROP_SM=4)."""

BETWEEN_NODES, INSIDE_NODE = ".network", ".nvlink"
"""Ends of the names of the two hops of a deduplicated exchange."""


def sm_shares(cluster: ClusterSpec, runtime: RuntimeSpec) -> tuple[SmShare, ...]:
    """Shares of the SMs that collectives inside a node may take: those measured, none where copy engines move them."""
    return () if runtime.copy_engine_overlap else cluster.profile.interference.shares


def share_of(
    order: PassOrder, operators: tuple[Operator, ...], cluster: ClusterSpec, runtime: RuntimeSpec
) -> SmShare | None:
    """The measured share of the SMs that an order's collectives inside a node take; None: what the library takes.

    Those that block say nothing (`Launch.num_sms` is 0 there): they run on the communicator of the others.
    """
    shares = sm_shares(cluster, runtime)
    if not shares:
        return None
    inside = {op.name for op in operators if op.resource is Resource.NVLINK}
    taken = {one.num_sms for one in order.launches if one.num_sms and not inside.isdisjoint(one.operators)}
    return next((share for share in shares if {share.num_sms} == taken), None)


@lru_cache(maxsize=65536)
def problem_of(
    operators: tuple[Operator, ...], cluster: ClusterSpec, runtime: RuntimeSpec, share: SmShare | None = None
) -> PassProblem:
    """The ordering problem of a pass: its operators with their times.

    `share`: the SMs that its collectives inside a node take, one figure as communicators have it, and what those
    between nodes bring inside; None: what the library takes.
    """
    time_s = {op.name: alone(op.work, cluster, runtime).time_s for op in operators}
    if share is not None:
        _slow_down(operators, time_s, share)
    _share_pcie(operators, time_s, cluster)
    forwarding_s = _forward_chunks(operators, time_s)
    inside_share = _inside_share(operators, time_s, forwarding_s, cluster, runtime, share)
    interference, copying_loss = _interference(cluster, runtime, share), memory_share_of_copies(cluster.gpu)
    return pass_problem(operators, time_s, runtime.overlap, interference, inside_share, copying_loss)


def _slow_down(operators: tuple[Operator, ...], time_s: dict[str, float], share: SmShare) -> None:
    for op in operators:
        if op.resource is Resource.NVLINK and isinstance(op.work, CollectiveWork):
            time_s[op.name] *= share.time_factor


def _interference(cluster: ClusterSpec, runtime: RuntimeSpec, share: SmShare | None) -> Interference:
    """The profile's, or that of four of 132 SMs at the most where copy engines move what overlaps."""
    measured = cluster.profile.interference
    if share is not None:
        return measured.on(share)
    if not runtime.copy_engine_overlap:
        return measured
    few = min(measured.compute_slowdown, COPY_ENGINE_SLOWDOWN)
    return msgspec.structs.replace(measured, compute_slowdown=few, communication_slowdown=1.0)


def _inside_share(
    operators: tuple[Operator, ...],
    time_s: dict[str, float],
    forwarding_s: float,
    cluster: ClusterSpec,
    runtime: RuntimeSpec,
    share: SmShare | None,
) -> float:
    """Seconds of NVLink traffic that a pass's communication between nodes brings with it, over its own.

    Collectives bring what they would take inside a node, on the `share` of the SMs whose slowdowns they are given;
    deduplicated exchanges the `forwarding_s` seconds of chunks that are forwarded while others arrive, which are
    those on the share already. One figure for all of a pass: which of its communication runs beside which computation
    is not known yet.
    """
    between = [op for op in operators if op.resource is Resource.NETWORK and isinstance(op.work, CollectiveWork)]
    network_s = sum(time_s[op.name] for op in between)
    if not network_s:
        return 0.0
    inside_s = sum(alone(_inside_node(op.work), cluster, runtime).time_s for op in between)
    return (forwarding_s + (share.time_factor if share is not None else 1.0) * inside_s) / network_s


def _inside_node(work: Work) -> Work:
    """A collective with all of its ranks in one node; of a pairwise exchange what crosses NVLink as it is.

    Rings carry every byte through every GPU. In an exchange what goes to other nodes goes straight to the adapter: the
    network's own interference counts that.
    """
    assert isinstance(work, CollectiveWork)
    size, inside = work.group.size, work.group.ranks_per_node
    if work.collective is Collective.ALL_TO_ALL:
        group = msgspec.structs.replace(work.group, size=inside)
        return msgspec.structs.replace(work, group=group, num_bytes=work.num_bytes * inside / size)
    return msgspec.structs.replace(work, group=msgspec.structs.replace(work.group, ranks_per_node=size))


def _share_pcie(operators: tuple[Operator, ...], time_s: dict[str, float], cluster: ClusterSpec) -> None:
    """Copies to and from the host wait while the network adapter uses their PCIe link."""
    copies = [op.name for op in operators if op.resource is Resource.COPY_ENGINE]
    if copies:
        network_s = sum(time_s[op.name] for op in operators if op.resource is Resource.NETWORK)
        for name in copies:
            time_s[name] += network_share_of_pcie(cluster) * network_s / len(copies)


def _forward_chunks(operators: tuple[Operator, ...], time_s: dict[str, float]) -> float:
    """Deduplicated rows are forwarded inside a node while more of them arrive from others: for so many seconds."""
    forwarding_s = 0.0
    for op in operators:
        stem, found, _ = op.name.rpartition(BETWEEN_NODES)
        inside = stem + INSIDE_NODE
        if found and op.axis is Axis.EXPERT and op.name.endswith(BETWEEN_NODES) and inside in time_s:
            whole_s = time_s[inside]
            time_s[op.name], time_s[inside] = forwarded_s(time_s[op.name], whole_s)
            forwarding_s += whole_s - time_s[inside]
    return forwarding_s
