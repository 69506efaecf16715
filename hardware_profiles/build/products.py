"""Tables of dense products from samples: efficiencies of the forward product, and ratios of the other kinds to it."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.costmodel.formulas.matmul import tiled_roofline_s
from meshwright.costmodel.hardware import ClusterSpec, GpuSpec, HardwareProfile
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import GemmWork, Pass, Precision
from meshwright.costmodel.tables import GemmTable, GemmVariant, Provenance
from meshwright.hardware_profiles.build.alone import one_node
from meshwright.hardware_profiles.build.grids import Shape, gridded, monotone
from meshwright.hardware_profiles.measurements import Sample

DIGITS = 4
Kind = tuple[Precision, Pass, bool]


def product_tables(samples: Iterable[Sample], gpu: GpuSpec, provenance: Provenance) -> tuple[GemmTable, ...]:
    """A table for each precision whose forward products were measured: roofline over measured time."""
    return tuple(
        _table(precision, times_s, gpu, provenance)
        for (precision, direction, accumulates), times_s in _times_by_kind(samples).items()
        if direction is Pass.FORWARD and not accumulates
    )


def _table(precision: Precision, times_s: dict[Shape, float], gpu: GpuSpec, provenance: Provenance) -> GemmTable:
    efficiencies = {}
    for (m, n, k), time_s in monotone(times_s).items():
        work = GemmWork(m=m, n=n, k=k, precision=precision)
        roofline_s = tiled_roofline_s(work, gpu.peak_flops_per_s(precision), gpu.copy_bytes_per_s)
        efficiencies[m, n, k] = round(roofline_s / time_s, DIGITS)
    grid = gridded(efficiencies)
    return GemmTable(
        precision=precision,
        m=grid.m,
        n=grid.n,
        k=grid.k,
        efficiencies=grid.values,
        provenance=provenance,
        sustained_fraction=1.0,
    )


def product_variants(
    samples: Iterable[Sample], profile: HardwareProfile, provenance: Provenance
) -> tuple[GemmVariant, ...]:
    """A table for each other kind: measured time over what `profile` has for the forward product of the shape."""
    cluster = one_node(profile)
    measured = {table.precision for table in profile.gemm}
    return tuple(
        _variant(kind, times_s, cluster, provenance)
        for kind, times_s in _times_by_kind(samples).items()
        if kind[0] in measured and kind[1:] != (Pass.FORWARD, False)
    )


def _variant(kind: Kind, times_s: dict[Shape, float], cluster: ClusterSpec, provenance: Provenance) -> GemmVariant:
    precision, direction, accumulates = kind
    ratios = {}
    for (m, n, k), time_s in times_s.items():
        forward = operator_timing(GemmWork(m=m, n=n, k=k, precision=precision), cluster)
        ratios[m, n, k] = round(time_s / forward.time_s, DIGITS)
    grid = gridded(ratios)
    return GemmVariant(
        precision=precision,
        direction=direction,
        accumulates_fp32=accumulates,
        m=grid.m,
        n=grid.n,
        k=grid.k,
        ratios=grid.values,
        provenance=provenance,
    )


def _times_by_kind(samples: Iterable[Sample]) -> dict[Kind, dict[Shape, float]]:
    """Times by precision, direction and accumulation, then by shape."""
    times_s: dict[Kind, dict[Shape, float]] = {}
    for sample in samples:
        work = sample.work
        if isinstance(work, GemmWork) and sample.gpu == 0:
            kind = (work.precision, work.direction, work.accumulates_fp32)
            times_s.setdefault(kind, {})[work.m, work.n, work.k] = sample.time_s
    return times_s
