"""Laws of grouped products from samples, by one rule: the figures that make the mean error in the logarithm least."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import log
from statistics import fmean
from typing import NamedTuple

import msgspec

from meshwright.costmodel.formulas.matmul import (
    OutputTiles,
    TiledMachine,
    grouped_gemm_bytes,
    grouped_tiles,
    tiled_product_s,
)
from meshwright.costmodel.hardware import GpuSpec
from meshwright.costmodel.program.operators import GroupedGemmWork, Pass, Precision
from meshwright.costmodel.tables import GroupedGemmLaw, Provenance
from meshwright.hardware_profiles.build.descent import Bounds, Figures, descended
from meshwright.hardware_profiles.measurements import Sample

LEAST_SAMPLES = 15
"""Three for each figure of a law; with fewer, the base's table tells more."""

FIGURES = {
    "rate_fraction": Bounds(0.7, 0.1, 1.0),
    "tile_depth": Bounds(200.0, 1.0, 2048.0),
    "bandwidth_fraction": Bounds(0.9, 0.1, 1.0),
    "start_s": Bounds(5e-6, 1e-6, 1e-4),
    "sharpness": Bounds(4.0, 1.0, 20.0),
}
START = {name: bounds.start for name, bounds in FIGURES.items()}


class _Point(NamedTuple):
    """A sample as the law sees it."""

    tiles: OutputTiles
    num_bytes: float
    time_s: float


def grouped_laws(samples: Iterable[Sample], gpu: GpuSpec, provenance: Provenance) -> tuple[GroupedGemmLaw, ...]:
    """A law for each precision and direction of which enough even products were measured."""
    points: dict[tuple[Precision, Pass], list[_Point]] = defaultdict(list)
    for sample in samples:
        work = sample.work
        if isinstance(work, GroupedGemmWork) and not sample.rows_per_group and not work.accumulates_fp32:
            point = _Point(grouped_tiles(work), grouped_gemm_bytes(work), sample.time_s)
            points[work.precision, work.direction].append(point)
    return tuple(
        _fitted(found, gpu, GroupedGemmLaw(precision=precision, direction=direction, provenance=provenance, **START))
        for (precision, direction), found in points.items()
        if len(found) >= LEAST_SAMPLES
    )


def _fitted(points: Sequence[_Point], gpu: GpuSpec, law: GroupedGemmLaw) -> GroupedGemmLaw:
    machine = TiledMachine(gpu.num_sms, gpu.peak_flops_per_s(law.precision), gpu.copy_bytes_per_s)

    def error(figures: Figures) -> float:
        return _error(points, machine, msgspec.structs.replace(law, **figures))

    return msgspec.structs.replace(law, **descended(FIGURES, error))


def _error(points: Sequence[_Point], machine: TiledMachine, law: GroupedGemmLaw) -> float:
    """Mean distance of predicted from measured time in the logarithm."""
    return fmean(
        abs(log(tiled_product_s(point.tiles, point.num_bytes, law, machine) / point.time_s)) for point in points
    )
