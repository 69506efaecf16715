"""The scalars of a profile that measurements replace, each with its citation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from meshwright.costmodel.hardware import GpuSpec, HardwareProfile, LaunchCost
from meshwright.costmodel.program.operators import CopyWork, MemoryKernel, MemoryWork
from meshwright.costmodel.tables import Citation, Provenance
from meshwright.hardware_profiles.measurements import LaunchSample, Machine, Sample

LEAST_COPY_BYTES = 2.5e8


class GpuFigures(NamedTuple):
    """The GPU with what was measured, and where that comes from."""

    gpu: GpuSpec
    citations: tuple[Citation, ...]


def gpu_figures(
    machine: Machine, samples: Sequence[Sample], base: HardwareProfile, provenance: Provenance
) -> GpuFigures:
    """Memory, copy bandwidth and the link to the host as measured; the rest as the base has it."""
    figures: dict[str, float] = {
        "num_sms": machine.num_sms,
        "memory_bytes": float(machine.total_memory_bytes),
        "usable_memory_bytes": float(machine.usable_memory_bytes),
    }
    copies = [rate for sample in samples if (rate := _copy_rate(sample))]
    if copies:
        figures["copy_bytes_per_s"] = max(copies)
    host_copies = [sample.work.num_bytes / sample.time_s for sample in samples if isinstance(sample.work, CopyWork)]
    if host_copies:
        figures["pcie_bytes_per_s"] = max(host_copies)
    names = [f"gpu.{name}" for name in figures] + ["launch"]
    citations = tuple(Citation(figure=name, source=provenance.source, text=provenance.text) for name in names)
    return GpuFigures(msgspec.structs.replace(base.gpu, **figures), citations)


def _copy_rate(sample: Sample) -> float:
    """Bytes read and written a second by a large device copy; 0 for any other sample."""
    work = sample.work
    if not isinstance(work, MemoryWork) or work.kernel is not MemoryKernel.COPY:
        return 0.0
    num_bytes = work.read_bytes + work.write_bytes
    return num_bytes / sample.time_s if num_bytes >= LEAST_COPY_BYTES else 0.0


def launch_cost(measured: LaunchSample | None, base: LaunchCost) -> LaunchCost:
    """Launch costs as measured; that of a collective is the base's where there is only one GPU."""
    if measured is None:
        return base
    collective_s = measured.collective_eager_s
    return LaunchCost(
        eager_s=measured.eager_s,
        collective_eager_s=base.collective_eager_s if collective_s is None else collective_s,
        cuda_graph_s=measured.cuda_graph_s,
        kernel_floor_s=measured.kernel_floor_s,
    )
