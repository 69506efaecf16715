"""Meshwright's own CUDA kernels from samples: time against the bytes they must move, a straight line for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from meshwright.costmodel.hardware import GpuSpec
from meshwright.costmodel.program.operators import CustomKernel, MemoryWork
from meshwright.costmodel.tables import CustomKernelShare, Provenance
from meshwright.hardware_profiles.build.memory import Point, line
from meshwright.hardware_profiles.measurements import Implementation, Sample


def custom_kernel_shares(
    samples: Iterable[Sample], gpu: GpuSpec, provenance: Provenance
) -> tuple[CustomKernelShare, ...]:
    """An entry for each kernel of which there are samples."""
    points: dict[CustomKernel, list[Point]] = defaultdict(list)
    for sample in samples:
        work = sample.work
        if sample.implementation is Implementation.CUSTOM and isinstance(work, MemoryWork) and work.custom:
            points[work.custom.kernel].append(Point(work.custom.num_bytes, sample.time_s))
    lines = {kernel: line(of_kernel, gpu) for kernel, of_kernel in points.items()}
    return tuple(
        CustomKernelShare(kernel=kernel, share=found.share, start_s=found.start_s, provenance=provenance)
        for kernel, found in sorted(lines.items())
        if found is not None
    )
