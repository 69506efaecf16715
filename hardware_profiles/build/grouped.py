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
from meshwright.hardware_profiles.measurements import Sample

LEAST_SAMPLES = 15
"""Three for each figure of a law; with fewer, the base's table tells more."""

START = {"rate_fraction": 0.7, "tile_depth": 200.0, "bandwidth_fraction": 0.9, "start_s": 5e-6, "sharpness": 4.0}
LEAST = {"rate_fraction": 0.1, "tile_depth": 1.0, "bandwidth_fraction": 0.1, "start_s": 1e-6, "sharpness": 1.0}
MOST = {"rate_fraction": 1.0, "tile_depth": 2048.0, "bandwidth_fraction": 1.0, "start_s": 1e-4, "sharpness": 20.0}
FIRST_STEP, LAST_STEP = 0.3, 1e-3
DIGITS = 4


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
        _fitted(found, TiledMachine(gpu.num_sms, gpu.peak_flops_per_s(precision), gpu.copy_bytes_per_s), law)
        for (precision, direction), found in points.items()
        if len(found) >= LEAST_SAMPLES
        for law in [GroupedGemmLaw(precision=precision, direction=direction, provenance=provenance, **START)]
    )


def _fitted(points: Sequence[_Point], machine: TiledMachine, law: GroupedGemmLaw) -> GroupedGemmLaw:
    """Coordinate descent by shrinking factors: few figures, no derivative, the same result everywhere."""
    error, step = _error(points, machine, law), FIRST_STEP
    while step > LAST_STEP:
        better = min(
            ((_error(points, machine, other), number, other) for number, other in enumerate(_neighbours(law, step))),
            key=lambda candidate: candidate[:2],
        )
        if better[0] < error:
            error, law = better[0], better[2]
        else:
            step /= 2.0
    return msgspec.structs.replace(law, **{field: _rounded(getattr(law, field)) for field in START})


def _neighbours(law: GroupedGemmLaw, step: float) -> list[GroupedGemmLaw]:
    """One figure larger or smaller by the step, within its bounds."""
    return [
        msgspec.structs.replace(law, **{field: min(MOST[field], max(LEAST[field], getattr(law, field) * factor))})
        for field in START
        for factor in (1.0 + step, 1.0 / (1.0 + step))
    ]


def _error(points: Sequence[_Point], machine: TiledMachine, law: GroupedGemmLaw) -> float:
    """Mean distance of predicted from measured time in the logarithm."""
    return fmean(
        abs(log(tiled_product_s(point.tiles, point.num_bytes, law, machine) / point.time_s)) for point in points
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
