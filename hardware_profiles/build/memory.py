"""Shares of the copy bandwidth that memory-bound kernels reach, from samples larger than the cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.program.operators import MemoryKernel, MemoryWork
from meshwright.costmodel.tables import MemoryShare, Provenance
from meshwright.hardware_profiles.measurements import Implementation, Sample

LEAST_BYTES = 128e6
DIGITS = 4


def memory_shares(
    samples: Iterable[Sample], profile: HardwareProfile, provenance: Provenance
) -> tuple[MemoryShare, ...]:
    """A share for each family, in eager code and fused; where only one was measured, the other is the base's."""
    found: dict[tuple[MemoryKernel, bool], list[float]] = defaultdict(list)
    for sample in samples:
        work = sample.work
        if isinstance(work, MemoryWork) and work.read_bytes + work.write_bytes >= LEAST_BYTES:
            is_eager = sample.implementation is Implementation.EAGER
            found[work.kernel, is_eager].append(_share(work, sample.time_s, profile))
    base = {share.kernel: share for share in profile.memory}
    return tuple(
        MemoryShare(
            kernel=kernel,
            fused=_median(found.get((kernel, False)), base[kernel].fused),
            eager=_median(found.get((kernel, True)), base[kernel].eager),
            provenance=provenance,
        )
        for kernel in dict.fromkeys(kernel for kernel, _ in found)
    )


def _median(shares: list[float] | None, otherwise: float) -> float:
    return round(min(1.0, median(shares)), DIGITS) if shares else otherwise


def _share(work: MemoryWork, time_s: float, profile: HardwareProfile) -> float:
    busy_s = max(time_s - work.num_kernels * profile.launch.kernel_floor_s, 0.1 * time_s)
    return (work.read_bytes + work.write_bytes) / busy_s / profile.gpu.copy_bytes_per_s
