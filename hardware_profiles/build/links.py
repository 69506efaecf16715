"""Curves of collectives inside a node from samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate

from meshwright.costmodel.hardware import GpuSpec
from meshwright.costmodel.program.operators import Collective, CollectiveWork, Resource
from meshwright.costmodel.tables import LinkCurve, Provenance
from meshwright.hardware_profiles.measurements import Implementation, Sample

DIGITS = 9


def link_curves(samples: Iterable[Sample], gpu: GpuSpec, provenance: Provenance) -> tuple[LinkCurve, ...]:
    """A curve for each collective and group size inside a node; times never fall with bytes."""
    times_s: dict[tuple[Collective, int], dict[float, float]] = defaultdict(dict)
    for sample in samples:
        work = sample.work
        if not isinstance(work, CollectiveWork) or sample.implementation is not Implementation.NCCL:
            continue
        if work.group.resource is Resource.NVLINK and not sample.peer_shares:
            times_s[work.collective, work.group.size][work.num_bytes] = sample.time_s
    return tuple(
        LinkCurve(
            collective=collective,
            group_size=size,
            num_bytes=tuple(sorted(by_bytes)),
            times_s=tuple(accumulate((round(by_bytes[num], DIGITS) for num in sorted(by_bytes)), max)),
            link_bytes_per_s=gpu.nvlink_bytes_per_s,
            provenance=provenance,
        )
        for (collective, size), by_bytes in times_s.items()
    )
