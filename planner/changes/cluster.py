"""Keys of the cluster: its GPU and that GPU's figures, nodes, links, host, price.

Measured efficiencies are shares of peaks and stay as they are when a peak changes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.units import Dimension
from meshwright.hardware_profiles import load_profile, profile_names
from meshwright.planner.change import Change, count, field, given, name_of, number, quantity
from meshwright.planner.cluster_record import shipped_profile_name
from meshwright.planner.draft import Draft

replace = msgspec.structs.replace
NONE = "none"


def _with_profile(draft: Draft, profile: HardwareProfile) -> Draft:
    return replace(draft, cluster=replace(draft.cluster, profile=profile))


def _with_gpu(draft: Draft, **figures: float) -> Draft:
    profile = draft.cluster.profile
    return _with_profile(draft, replace(profile, gpu=replace(profile.gpu, **figures)))


def _put_gpu(draft: Draft, name: str) -> Draft:
    """Another GPU with its own NVLink and memory; the same one keeps what the cluster says of them."""
    if name in (draft.cluster.gpu.name, shipped_profile_name(draft.cluster.profile)):
        return draft
    return _with_profile(draft, load_profile(name))


def _gpu_quantity(name: str, dimension: Dimension) -> Change:
    return Change(
        read=quantity(dimension),
        get=lambda draft: getattr(draft.cluster.gpu, name),
        put=lambda draft, value: _with_gpu(draft, **{name: value}),
        dimension=dimension,
    )


def _fp8_peak() -> Change:
    """The FP8 peak; `none` is that of a GPU without FP8."""
    change = _gpu_quantity("fp8_flops_per_s", Dimension.FLOPS_PER_S)

    def read(key: str, text: str, before: Any) -> float:  # noqa: ANN401  one signature for all readers
        peak: float = 0.0 if text == NONE else change.read(key, text, 0.0 if before == NONE else before)
        return peak

    return replace(change, read=read, get=lambda draft: draft.cluster.gpu.fp8_flops_per_s or NONE)


def _put_memory(draft: Draft, memory_bytes: float) -> Draft:
    """Another size of memory; what driver and context take of it stays."""
    gpu = draft.cluster.gpu
    usable_bytes = gpu.usable_memory_bytes + (memory_bytes - gpu.memory_bytes)
    if usable_bytes <= 0:
        taken = gpu.memory_bytes - gpu.usable_memory_bytes
        raise StrategyError("cluster", "memory_bytes", f"driver and context alone take {taken:,.0f} bytes")
    return _with_gpu(draft, memory_bytes=memory_bytes, usable_memory_bytes=usable_bytes)


def _put_memory_rate(draft: Draft, bytes_per_s: float) -> Draft:
    """Another bandwidth of memory; the share of it that a copy reaches stays."""
    gpu = draft.cluster.gpu
    reached = min(bytes_per_s, gpu.copy_bytes_per_s * (bytes_per_s / gpu.memory_bytes_per_s))
    return _with_gpu(draft, memory_bytes_per_s=bytes_per_s, copy_bytes_per_s=reached)


def _put_sms(draft: Draft, num_sms: int) -> Draft:
    """Another number of SMs, each as fast as before: the peaks follow."""
    gpu = draft.cluster.gpu
    if num_sms == gpu.num_sms:
        return draft
    ratio = num_sms / gpu.num_sms
    peaks = {name: ratio * getattr(gpu, name) for name in ("bf16_flops_per_s", "fp8_flops_per_s")}
    return _with_gpu(draft, num_sms=num_sms, **peaks)


def _cluster_quantity(name: str, dimension: Dimension) -> Change:
    return field(quantity(dimension), "cluster", name, dimension)


def _read_price(key: str, text: str, before: Any) -> float | None:  # noqa: ANN401  one signature for all readers
    return None if text == NONE else number(0.0, above=True)(key, text, before)


def _price() -> Change:
    change = field(_read_price, "cluster", "price_per_gpu_hour")
    return replace(change, get=lambda draft: draft.cluster.price_per_gpu_hour or NONE)


RATE, SIZE, TIME, FLOPS = Dimension.BYTES_PER_S, Dimension.BYTES, Dimension.SECONDS, Dimension.FLOPS_PER_S

CLUSTER_CHANGES: dict[str, Change] = {
    "cluster.gpu": Change(read=name_of(profile_names), get=lambda draft: draft.cluster.gpu.name, put=_put_gpu),
    "cluster.num_gpus": given(count, "cluster.num_gpus", lambda draft: draft.cluster.num_gpus),
    "cluster.gpus_per_node": given(count, "cluster.gpus_per_node", lambda draft: draft.cluster.gpus_per_node),
    "cluster.nics_per_node": given(count, "cluster.nics_per_node", lambda draft: draft.cluster.num_nics),
    "cluster.network_bytes_per_s": given(
        quantity(RATE), "cluster.network_bytes_per_s", lambda draft: draft.cluster.network_bytes_per_s, RATE
    ),
    "cluster.network_latency_s": _cluster_quantity("network_latency_s", TIME),
    "cluster.nvlink_bytes_per_s": _gpu_quantity("nvlink_bytes_per_s", RATE),
    "cluster.nvlink_latency_s": _cluster_quantity("nvlink_latency_s", TIME),
    "cluster.oversubscription": field(number(1.0), "cluster", "oversubscription"),
    "cluster.pcie_bytes_per_s": _gpu_quantity("pcie_bytes_per_s", RATE),
    "cluster.memory_bytes": Change(
        read=quantity(SIZE), get=lambda draft: draft.cluster.gpu.memory_bytes, put=_put_memory, dimension=SIZE
    ),
    "cluster.usable_memory_bytes": _gpu_quantity("usable_memory_bytes", SIZE),
    "cluster.memory_bytes_per_s": Change(
        read=quantity(RATE),
        get=lambda draft: draft.cluster.gpu.memory_bytes_per_s,
        put=_put_memory_rate,
        dimension=RATE,
    ),
    "cluster.num_sms": Change(read=count, get=lambda draft: draft.cluster.gpu.num_sms, put=_put_sms),
    "cluster.bf16_flops_per_s": _gpu_quantity("bf16_flops_per_s", FLOPS),
    "cluster.fp8_flops_per_s": _fp8_peak(),
    "cluster.host_memory_bytes": _cluster_quantity("host_memory_bytes", SIZE),
    "cluster.price_per_gpu_hour": _price(),
}
"""In the order in which changes are made: a GPU, then what differs from it."""
