"""How long dense products take: the least time over the tiles and cuts of the depth that cuBLAS chooses among."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.formulas.matmul import INPUT_BYTES, OUTPUT_BYTES, SUM_BYTES, TILE, TiledMachine
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.tables import GemmLaw

_SIDES: Final = (
    (256, 128), (192, 192), (320, 128), (192, 128), (64, 64), (128, 64), (128, 128), (160, 128), (64, 32), (96, 64),
    (128, 96), (256, 160), (64, 48), (64, 24), (64, 16), (192, 64), (128, 112), (64, 8), (144, 128), (192, 96),
)  # fmt: skip
"""Output tiles, either side up: 20 of the 79 that cuBLAS 13.0 chooses, 85 % of its choices
(`benchmarks/product_tiles.json`).

docs/accuracy.md has what other choices would change.
"""
SPLITS: Final = (1, 2, 4, 8)
"""Into how many parts the depth is cut, their sums added in a second pass."""
ELEMENT_BYTES: Final = INPUT_BYTES[Precision.BF16]
PARTIAL_SUM_BYTES: Final = 2 * SUM_BYTES
"""A partial sum in FP32, written and read."""

Array = npt.NDArray[np.float64]


class _Ways(NamedTuple):
    """Every tile with every cut of the depth: rows, columns, parts."""

    rows: Array
    columns: Array
    parts: Array


def _all_ways() -> _Ways:
    tiles = sorted({way for rows, columns in _SIDES for way in ((rows, columns), (columns, rows))})
    grid = np.array([(rows, columns, parts) for rows, columns in tiles for parts in SPLITS], dtype=np.float64)
    return _Ways(grid[:, 0], grid[:, 1], grid[:, 2])


WAYS: Final = _all_ways()


def tiled_products_s(shapes: Array, law: GemmLaw, machine: TiledMachine, output_bytes: float = OUTPUT_BYTES) -> Array:
    """Seconds of products in 16 bits of (m, k) by (k, n): `shapes` holds m, n, k a row; one time for each.

    `output_bytes`: read and written for each value of the output.

    Equation: least over tiles of R x C and s parts of the depth of t = start + (c^p + b^p)^(1/p) + (s > 1)(join + a S).
    Arithmetic: c = w d K + (1 + l (w - 1)) (D d + v R C) with w = ceil(ceil(m/R) ceil(n/C) s / SMs) waves,
    K = 64 ceil(ceil(k/64) / s) and d = ((2 R C SMs / (e peak))^q + (z + y (R + C))^q)^(1/q) seconds for each unit of
    depth, by tensor cores or by loads. Traffic: b = (2 (m k + k n) + o m n) / (f copy). Joining: S = 8 s m n / copy.
    o output_bytes. Of the law: start_s; p sharpness; e rate_fraction; z depth_s and y side_s (loads); q load_sharpness;
    D tile_depth and v value_s (start and end of a tile); l later_share (of it in waves after the first);
    f bandwidth_fraction; join_s and a join_share.
    Source: work partition of CUTLASS's persistent kernels, whose SMs compute tile after tile; cuBLAS has tiles of many
    sizes and is taken to choose the best. Figures are fitted to measurements by a fixed rule
    (`hardware_profiles.build.dense`).

    >>> law = GemmLaw(rate_fraction=0.5, depth_s=1e-9, side_s=1e-9, load_sharpness=10.0, tile_depth=100.0,
    ...     value_s=1e-9, later_share=1.0, bandwidth_fraction=1.0, start_s=1.0, sharpness=50.0, join_s=1e9,
    ...     join_share=1.0)
    >>> machine = TiledMachine(num_sms=1, flops_per_s=4.0 * 192 * 192, bytes_per_s=1e12)
    >>> tiled_products_s(np.array([[192.0, 192.0, 64.0]]), law, machine).round(3).tolist()
    [165.0]
    """
    m, n, k = (shapes[:, side, None] for side in range(3))
    rows, columns, parts = WAYS
    waves = np.ceil(np.ceil(m / rows) * np.ceil(n / columns) * parts / machine.num_sms)
    depth = TILE * np.ceil(np.ceil(k / TILE) / parts)
    multiplied_s = 2.0 * rows * columns * machine.num_sms / (law.rate_fraction * machine.flops_per_s)
    loaded_s = law.depth_s + law.side_s * (rows + columns)
    each_s = _smooth_maximum(multiplied_s, loaded_s, law.load_sharpness)
    ends_s = law.tile_depth * each_s + law.value_s * rows * columns
    arithmetic_s = waves * each_s * depth + (1.0 + law.later_share * (waves - 1.0)) * ends_s
    num_bytes = ELEMENT_BYTES * (m * k + k * n) + output_bytes * m * n
    traffic_s = np.broadcast_to(num_bytes / (law.bandwidth_fraction * machine.bytes_per_s), arithmetic_s.shape)
    summed_s = law.join_s + law.join_share * PARTIAL_SUM_BYTES * parts * m * n / machine.bytes_per_s
    joined_s = np.where(parts > 1.0, summed_s, 0.0)
    least_s: Array = (_smooth_maximum(arithmetic_s, traffic_s, law.sharpness) + joined_s).min(axis=1)
    return law.start_s + least_s


def _smooth_maximum(one: Array, other: Array, sharpness: float) -> Array:
    """(one^p + other^p)^(1/p), of positive values."""
    larger = np.maximum(one, other)
    smooth: Array = larger * (1.0 + (np.minimum(one, other) / larger) ** sharpness) ** (1.0 / sharpness)
    return smooth
