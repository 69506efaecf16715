"""A step in which one GPU or one link is slow: the costs of the stage it is in, and the messages it carries.

The slow part is costed like any other, on a cluster whose GPUs (or links) are all as slow: what its stage costs there
is what the ranks that wait for it take. Stages apart from it keep their costs. The replica with the slow part is the
one that the step waits for, so it is the one that is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from meshwright.costmodel.circumstances import NONE, WORST, LinkPlace
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.simulate import Durations, Term
from meshwright.costmodel.stage_cost import StageCost, stage_costs

replace = msgspec.structs.replace

Costs = tuple[StageCost, ...]
Hops = Callable[[TrainingConfiguration], list[float]]
"""Seconds of the message between each two neighbouring virtual stages of a configuration."""

NOWHERE = -2
ONCE = ("param_gather_s", "grad_reduce_s", "gather_slowdown_s", "reduce_slowdown_s")
"""What the collectives of parameters take and cost once a step."""

BYTES = tuple(name for name in StageCost.__struct_fields__ if name.endswith("_bytes"))


def slow_gpu_cluster(cluster: ClusterSpec, time_factor: float) -> ClusterSpec:
    """The cluster with GPUs that compute and move memory so many times as slowly; links and launches as they are.

    What a law of dense products has in seconds takes as much longer.
    """
    rates = ("bf16_flops_per_s", "fp8_flops_per_s", "memory_bytes_per_s", "copy_bytes_per_s")
    slow = replace(cluster.gpu, **{rate: getattr(cluster.gpu, rate) / time_factor for rate in rates})
    gemm = tuple(
        table if table.law is None else replace(table, law=table.law.slowed(time_factor))
        for table in cluster.profile.gemm
    )
    return replace(cluster, profile=replace(cluster.profile, gpu=slow, gemm=gemm))


def slow_link_cluster(cluster: ClusterSpec, bandwidth_fraction: float, *, nvlink: bool) -> ClusterSpec:
    """The cluster with a share of the network's bandwidth, and of NVLink's if `nvlink`."""
    network = replace(cluster, network_bytes_per_s=cluster.network_bytes_per_s * bandwidth_fraction)
    if not nvlink:
        return network
    gpu = replace(cluster.gpu, nvlink_bytes_per_s=cluster.gpu.nvlink_bytes_per_s * bandwidth_fraction)
    return replace(network, profile=replace(cluster.profile, gpu=gpu))


class SlowParts:
    """The costs and messages of a configuration with its slow GPU and its slow link in given places.

    `placement[d]` has the virtual stages of device d; `costs` are those of the configuration with nothing slow.
    """

    def __init__(
        self, configuration: TrainingConfiguration, placement: Sequence[Sequence[int]], costs: Costs, hops: Hops
    ) -> None:
        self._nominal = replace(configuration, circumstances=NONE)
        self._gpu, self._link = configuration.circumstances.slow_gpu, configuration.circumstances.slow_link
        self._placement, self._hop_times_s = placement, hops
        self._costs: dict[tuple[bool, bool], Costs] = {(False, False): costs}

    def gpu_places(self) -> Sequence[int]:
        """Devices in which the slow GPU may be; the only one is `NOWHERE` if none is slow."""
        if self._gpu.time_factor == 1.0:
            return (NOWHERE,)
        return range(len(self._placement)) if self._gpu.stage == WORST else (self._gpu.stage,)

    def link_places(self) -> Sequence[int]:
        """Devices (or boundaries of virtual stages) at which the slow link may be, or `NOWHERE`."""
        if self._link.bandwidth_fraction == 1.0:
            return (NOWHERE,)
        if self._link.stage != WORST:
            return (self._link.stage,)
        boundaries = sum(map(len, self._placement)) - 1
        return range(boundaries if self._link.place is LinkPlace.BOUNDARY else len(self._placement)) or (NOWHERE,)

    def costs(self, gpu: int, link: int) -> Costs:
        """Costs of the virtual stages: seconds with what is slow, bytes as they are."""
        if self._link.place is LinkPlace.BOUNDARY:
            link = NOWHERE
        devices = {stage: device for device, stages in enumerate(self._placement) for stage in stages}
        return tuple(self._cost(stage, devices[stage] == gpu, devices[stage] == link) for stage in sorted(devices))

    def hops(self, link: int) -> list[float]:
        """Seconds of the messages between virtual stages."""
        hops = self._hop_times_s(self._nominal)
        if link == NOWHERE or self._link.place is LinkPlace.DATA_PARALLEL:
            return hops
        touched = {link}
        if self._link.place is LinkPlace.ADAPTER:
            touched = {boundary for stage in self._placement[link] for boundary in (stage - 1, stage)}
        slow = self._hop_times_s(self._slow(gpu=False, link=True))
        return [slow[j] if j in touched else hop for j, hop in enumerate(hops)]

    def _cost(self, stage: int, slow_gpu: bool, slow_link: bool) -> StageCost:
        cost = self._all(slow_gpu, slow_link)[stage]
        if slow_link and self._link.place is LinkPlace.DATA_PARALLEL and self._nominal.sharding.stage < 2:
            once = {name: getattr(cost, name) for name in ONCE}
            cost = replace(self._all(slow_gpu, False)[stage], **once)
        held = {name: getattr(self._all(False, False)[stage], name) for name in BYTES}
        return replace(cost, **held)

    def _all(self, gpu: bool, link: bool) -> Costs:
        if (gpu, link) not in self._costs:
            self._costs[gpu, link] = stage_costs(self._slow(gpu=gpu, link=link))
        return self._costs[gpu, link]

    def _slow(self, *, gpu: bool, link: bool) -> TrainingConfiguration:
        cluster = self._nominal.cluster
        if gpu:
            cluster = slow_gpu_cluster(cluster, self._gpu.time_factor)
        if link:
            at_boundary = self._link.place is LinkPlace.BOUNDARY
            cluster = slow_link_cluster(cluster, self._link.bandwidth_fraction, nvlink=at_boundary)
        return replace(self._nominal, cluster=cluster)


def worst_places(parts: SlowParts, step_s: Callable[[int, int], float]) -> tuple[int, int]:
    """Where slow GPU and slow link cost most: the GPU's place first, then the link's beside it.

    `step_s(gpu, link)` is the step with them in these places.
    """
    gpu = max(parts.gpu_places(), key=lambda place: step_s(place, NOWHERE))
    link = max(parts.link_places(), key=lambda place: step_s(gpu, place))
    return gpu, link


def with_hops(durations: Durations, hops: list[float]) -> Durations:
    """The durations with other messages between virtual stages."""
    vector = durations.vector.copy()
    for term in (Term.FORWARD_HOP, Term.BACKWARD_HOP):
        vector[durations.layout.span(term)] = hops
    return Durations(layout=durations.layout, vector=vector)
