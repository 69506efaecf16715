"""A cluster as a plan records it, and back: the profile by its name where it is a shipped one."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.hardware import ClusterSpec, HardwareProfile
from meshwright.hardware_profiles import load_profile, profile_names
from meshwright.planner.plan import ClusterRecord, content_hash


def cluster_record(cluster: ClusterSpec) -> ClusterRecord:
    """The cluster's figures; its profile by name if it is a shipped one, else in full."""
    name = shipped_profile_name(cluster.profile)
    return ClusterRecord(
        name=cluster.name,
        num_gpus=cluster.num_gpus,
        gpus_per_node=cluster.gpus_per_node,
        network_bytes_per_s=cluster.network_bytes_per_s,
        network_latency_s=cluster.network_latency_s,
        nvlink_bytes_per_s=cluster.gpu.nvlink_bytes_per_s,
        nvlink_latency_s=cluster.nvlink_latency_s,
        oversubscription=cluster.oversubscription,
        usable_memory_bytes=cluster.gpu.usable_memory_bytes,
        host_memory_bytes=cluster.host_memory_bytes,
        mean_time_between_failures_s=cluster.mean_time_between_failures_s,
        price_per_gpu_hour=cluster.price_per_gpu_hour,
        nics_per_node=cluster.nics_per_node,
        profile=name or cluster.gpu.name,
        profile_hash=content_hash(cluster.profile),
        custom_profile=None if name else cluster.profile,
    )


def cluster_of(record: ClusterRecord) -> ClusterSpec:
    """The cluster of a record, with the profile as it is shipped today."""
    return ClusterSpec(
        name=record.name,
        profile=_profile_of(record),
        gpus_per_node=record.gpus_per_node,
        num_gpus=record.num_gpus,
        network_bytes_per_s=record.network_bytes_per_s,
        network_latency_s=record.network_latency_s,
        nvlink_latency_s=record.nvlink_latency_s,
        oversubscription=record.oversubscription,
        host_memory_bytes=record.host_memory_bytes,
        mean_time_between_failures_s=record.mean_time_between_failures_s,
        price_per_gpu_hour=record.price_per_gpu_hour,
        nics_per_node=record.nics_per_node,
    )


def shipped_profile_name(profile: HardwareProfile) -> str | None:
    """The shipped profile that this one is, apart from NVLink and usable memory, which a cluster may change."""
    for name in profile_names():
        shipped = load_profile(name)
        if shipped.gpu.name == profile.gpu.name and _with_links_of(shipped, profile) == profile:
            return name
    return None


def _with_links_of(shipped: HardwareProfile, profile: HardwareProfile) -> HardwareProfile:
    return with_link_and_memory(shipped, profile.gpu.nvlink_bytes_per_s, profile.gpu.usable_memory_bytes)


def with_link_and_memory(
    profile: HardwareProfile, nvlink_bytes_per_s: float, usable_memory_bytes: float
) -> HardwareProfile:
    """The profile with a cluster's own NVLink and usable memory."""
    replace = msgspec.structs.replace
    gpu = replace(profile.gpu, nvlink_bytes_per_s=nvlink_bytes_per_s, usable_memory_bytes=usable_memory_bytes)
    return replace(profile, gpu=gpu)


def _profile_of(record: ClusterRecord) -> HardwareProfile:
    if record.custom_profile is None and record.profile not in profile_names():
        known = ", ".join(profile_names())
        raise PlanError("plan", "cluster.profile", f"{record.profile!r} is not a shipped profile; there are {known}")
    profile = record.custom_profile or load_profile(record.profile)
    return with_link_and_memory(profile, record.nvlink_bytes_per_s, record.usable_memory_bytes)
