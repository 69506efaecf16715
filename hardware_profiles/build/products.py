"""Tables of dense products from samples: efficiencies of the forward product, and ratios of the other kinds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from meshwright.costmodel.formulas.matmul import ACCUMULATE_BYTES, OUTPUT_BYTES, TiledMachine, tiled_roofline_s
from meshwright.costmodel.formulas.tiled_products import tiled_products_s
from meshwright.costmodel.hardware import ClusterSpec, GpuSpec, HardwareProfile
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import GemmWork, Pass, Precision
from meshwright.costmodel.tables import GemmLaw, GemmTable, GemmVariant, Provenance
from meshwright.hardware_profiles.build.alone import one_node
from meshwright.hardware_profiles.build.dense import product_law
from meshwright.hardware_profiles.build.grids import Shape, gridded, monotone
from meshwright.hardware_profiles.measurements import Sample

DIGITS = 4
Kind = tuple[Precision, Pass, bool]


def product_tables(
    samples: Iterable[Sample], gpu: GpuSpec, base: Iterable[GemmTable], provenance: Provenance
) -> tuple[GemmTable, ...]:
    """A table for each precision whose forward products were measured: law or roofline over measured time.

    Where they are too few for a law, that of the base's table, where it has one, is what they correct.
    """
    samples = tuple(samples)
    laws = {table.precision: table.law for table in base}
    if (law := product_law(samples, gpu)) is not None:
        laws[Precision.BF16] = law
    return tuple(
        _table(precision, times_s, gpu, laws.get(precision), provenance)
        for (precision, direction, accumulates), times_s in _times_by_kind(samples).items()
        if direction is Pass.FORWARD and not accumulates
    )


def _table(
    precision: Precision, times_s: dict[Shape, float], gpu: GpuSpec, law: GemmLaw | None, provenance: Provenance
) -> GemmTable:
    if law is None:
        times_s = monotone(times_s)
        best_s = {shape: _roofline_s(shape, precision, gpu) for shape in times_s}
    else:
        best_s = _by_law_s(law, times_s, gpu, OUTPUT_BYTES)
    grid = gridded({shape: round(best_s[shape] / time_s, DIGITS) for shape, time_s in times_s.items()})
    return GemmTable(
        precision=precision,
        m=grid.m,
        n=grid.n,
        k=grid.k,
        efficiencies=grid.values,
        provenance=provenance,
        sustained_fraction=1.0,
        law=law,
    )


def _roofline_s(shape: Shape, precision: Precision, gpu: GpuSpec) -> float:
    m, n, k = shape
    work = GemmWork(m=m, n=n, k=k, precision=precision)
    return tiled_roofline_s(work, gpu.peak_flops_per_s(precision), gpu.copy_bytes_per_s)


def _by_law_s(law: GemmLaw, shapes: Iterable[Shape], gpu: GpuSpec, output_bytes: float) -> dict[Shape, float]:
    shapes = tuple(shapes)
    machine = TiledMachine(gpu.num_sms, gpu.peak_flops_per_s(Precision.BF16), gpu.copy_bytes_per_s)
    times_s = tiled_products_s(np.array(shapes, dtype=np.float64), law, machine, output_bytes)
    return dict(zip(shapes, times_s.tolist(), strict=True))


def product_variants(
    samples: Iterable[Sample], profile: HardwareProfile, provenance: Provenance
) -> tuple[GemmVariant, ...]:
    """A table for each other kind: measured time over that of the law or, without one, of the forward product."""
    cluster = one_node(profile)
    laws = {table.precision: table.law for table in profile.gemm}
    return tuple(
        _variant(kind, times_s, cluster, laws[kind[0]], provenance)
        for kind, times_s in _times_by_kind(samples).items()
        if kind[0] in laws and kind[1:] != (Pass.FORWARD, False)
    )


def _variant(
    kind: Kind, times_s: dict[Shape, float], cluster: ClusterSpec, law: GemmLaw | None, provenance: Provenance
) -> GemmVariant:
    precision, direction, accumulates = kind
    if law is None:
        usual_s = {shape: _forward_s(shape, precision, cluster) for shape in times_s}
    else:
        usual_s = _by_law_s(law, times_s, cluster.gpu, ACCUMULATE_BYTES if accumulates else OUTPUT_BYTES)
    grid = gridded({shape: round(time_s / usual_s[shape], DIGITS) for shape, time_s in times_s.items()})
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


def _forward_s(shape: Shape, precision: Precision, cluster: ClusterSpec) -> float:
    m, n, k = shape
    return operator_timing(GemmWork(m=m, n=n, k=k, precision=precision), cluster).time_s


def _times_by_kind(samples: Iterable[Sample]) -> dict[Kind, dict[Shape, float]]:
    """Times by precision, direction and accumulation, then by shape."""
    times_s: dict[Kind, dict[Shape, float]] = {}
    for sample in samples:
        work = sample.work
        if isinstance(work, GemmWork) and sample.gpu == 0:
            kind = (work.precision, work.direction, work.accumulates_fp32)
            times_s.setdefault(kind, {})[work.m, work.n, work.k] = sample.time_s
    return times_s
