"""How long dense and grouped products take: FLOPs, bytes, the tile-quantised roofline, and measured shares of it."""

from __future__ import annotations

import math
from typing import NamedTuple

from meshwright.costmodel.program.operators import GemmWork, GroupedGemmWork, Pass, Precision
from meshwright.costmodel.tables import GroupedGemmLaw

TILE = 64
LARGE_TILE, SMALL_TILE = (128, 256), (64, 128)
"""Rows and columns of the output that an SM computes at once in grouped products."""
SMALL_SIDE = 128
OUTPUT_BYTES = 2
INPUT_BYTES = {Precision.BF16: 2, Precision.FP8: 1}
SUM_BYTES = 4
ACCUMULATE_BYTES = 2 * SUM_BYTES
EXPOSED_OUTPUT = 0.6
"""Share of the output's traffic that does not hide under a product's arithmetic (see `sustained_s`)."""


class OutputTiles(NamedTuple):
    """How the output of a product is divided: tiles, values in each, how deep their sums are."""

    num_tiles: int
    tile_area: int
    depth: float


class TiledMachine(NamedTuple):
    """What a product by tiles runs on: SMs, peak rate of the number format, bytes a second of a copy."""

    num_sms: int
    flops_per_s: float
    bytes_per_s: float


def padded(size: float, tile: int = TILE) -> float:
    """A side of a product rounded up to whole tiles.

    Equation: tile ceil(size / tile).
    Source: tensor cores work on whole tiles; one row more than a tile costs 1.8 % at the median of measured
    neighbours m = 1,024 .. 4,096 against m + 1 (aiconfigurator_core 0.12, h100_sxm GEMM tables), 64 fits best.

    >>> padded(4097), padded(4096)
    (4160, 4096)
    """
    return tile * -(-size // tile)


def gemm_flops(m: float, n: float, k: float) -> float:
    """FLOPs of a product of (m, k) by (k, n).

    Equation: 2 m n k.
    Source: definition; a multiplication and an addition each.

    >>> gemm_flops(2, 3, 4)
    48
    """
    return 2 * m * n * k


def gemm_bytes(work: GemmWork) -> float:
    """Bytes a product must move: both inputs once, the output once, or read and written in FP32 if accumulated.

    Equation: e (m k + k n) + o m n, e = 2 (bf16) or 1 (fp8), o = 2, or 8 for an FP32 accumulator.
    Source: compulsory traffic of the roofline model (Williams et al., CACM 52(4), 2009).

    >>> gemm_bytes(GemmWork(m=10, n=20, k=30)), gemm_bytes(GemmWork(m=10, n=20, k=30, accumulates_fp32=True))
    (2200, 3400)
    """
    inputs = INPUT_BYTES[work.precision] * (work.m * work.k + work.k * work.n)
    return inputs + (ACCUMULATE_BYTES if work.accumulates_fp32 else OUTPUT_BYTES) * work.m * work.n


def grouped_gemm_bytes(work: GroupedGemmWork) -> float:
    """Bytes of a grouped product: rows in and out once, each group's weights (or weight gradient) once.

    Equation: forward, dgrad: e (R k + G k n) + 2 R n; wgrad: e R (k + n) + o G k n, o = 2, or 8 accumulating FP32.
    Source: compulsory traffic of the roofline model; G groups, R rows together.

    >>> grouped_gemm_bytes(GroupedGemmWork(num_groups=2, rows=10, n=3, k=4))
    188
    >>> work = GroupedGemmWork(num_groups=2, rows=10, n=3, k=4, direction=Pass.WGRAD, accumulates_fp32=True)
    >>> grouped_gemm_bytes(work)
    332
    """
    element = INPUT_BYTES[work.precision]
    weights = work.num_groups * work.k * work.n
    if work.direction is Pass.WGRAD:
        output = ACCUMULATE_BYTES if work.accumulates_fp32 else OUTPUT_BYTES
        return element * work.rows * (work.k + work.n) + output * weights
    return element * (work.rows * work.k + weights) + OUTPUT_BYTES * work.rows * work.n


def added_gradient_bytes(work: GroupedGemmWork) -> tuple[float, float]:
    """Bytes (read, written) of adding a grouped product's 16-bit weight gradients to FP32 sums, after the product.

    Equation: (2 + 4) G k n read, 4 G k n written.
    Source: compulsory traffic; torch's grouped product (2.11 to 2.13) has no FP32 output that it adds to.

    >>> added_gradient_bytes(GroupedGemmWork(num_groups=2, rows=10, n=3, k=4, direction=Pass.WGRAD))
    (144, 96)
    """
    weights = work.num_groups * work.k * work.n
    return (OUTPUT_BYTES + SUM_BYTES) * weights, SUM_BYTES * weights


def grouped_gemm_flops(work: GroupedGemmWork) -> float:
    """FLOPs a grouped product really runs, each group's rows padded to whole tiles.

    Equation: 2 G pad(R / G) n k; in wgrad the rows are the depth, padded likewise.
    Source: grouped kernels work on whole tiles of one group (CUTLASS grouped GEMM; DeepGEMM aligns groups to BLOCK_M).

    >>> grouped_gemm_flops(GroupedGemmWork(num_groups=2, rows=130, n=64, k=64)) == 2 * 256 * 64 * 64
    True
    """
    return gemm_flops(work.num_groups * padded(work.rows / work.num_groups), padded(work.n), work.k)


def tiled_product_s(tiles: OutputTiles, num_bytes: float, law: GroupedGemmLaw, machine: TiledMachine) -> float:
    """Time of a product whose SMs each work on one output tile after the other.

    Equation: t = start + (c^p + m^p)^(1/p), c = ceil(tiles / SMs) 2 T (depth + d) SMs / (e peak), m = bytes / (b copy);
    T area of a tile, e rate fraction, d tile depth, b bandwidth fraction, p sharpness.
    Source: work partition of CUTLASS's grouped products (whole waves of tiles; prologue and epilogue of each); the
    smooth maximum stands for arithmetic and traffic that hinder each other where they are near. Figures fitted to
    measurements by a fixed rule (`hardware_profiles.build.grouped`).

    >>> from meshwright.costmodel.tables import Provenance, Source
    >>> law = GroupedGemmLaw(precision=Precision.BF16, direction=Pass.FORWARD, rate_fraction=0.5, tile_depth=100.0,
    ...     bandwidth_fraction=1.0, start_s=1.0, sharpness=1.0,
    ...     provenance=Provenance(source=Source.DERIVED, text="an example"))
    >>> machine = TiledMachine(num_sms=2, flops_per_s=2 * 128 * 256 * 100, bytes_per_s=10.0)
    >>> tiles = OutputTiles(num_tiles=3, tile_area=128 * 256, depth=900.0)
    >>> tiled_product_s(tiles, num_bytes=20.0, law=law, machine=machine)
    83.0
    """
    waves = -(-tiles.num_tiles // machine.num_sms)
    each = 2.0 * tiles.tile_area * (tiles.depth + law.tile_depth)
    arithmetic_s = waves * each * machine.num_sms / (law.rate_fraction * machine.flops_per_s)
    traffic_s = num_bytes / (law.bandwidth_fraction * machine.bytes_per_s)
    if arithmetic_s < traffic_s:
        arithmetic_s, traffic_s = traffic_s, arithmetic_s
    both = 1.0 + math.pow(traffic_s / arithmetic_s, law.sharpness)
    return law.start_s + arithmetic_s * math.pow(both, 1.0 / law.sharpness)


def grouped_tiles(work: GroupedGemmWork) -> OutputTiles:
    """Output tiles of a grouped product.

    Equation: G ceil(r / rows) ceil(n / columns) tiles; forward, dgrad: r = R / G, k deep; wgrad: r = k, R / G deep;
    depths in whole steps of 64. Tiles of 64 x 128 where r or n is at most 128 (BF16), else 128 x 256.
    Source: PyTorch's choice between CUTLASS's kernels on Hopper (`GroupMM.cu`), whose steps are 64 deep. By five folds
    of the measured grid its tiles predict better than one size (H200, forward: 95 % below 11.7 instead of 15.2 %). In
    FP8 they do, too, but other libraries run there, whose published times they miss by more.

    >>> grouped_tiles(GroupedGemmWork(num_groups=2, rows=258, n=256, k=64))
    OutputTiles(num_tiles=4, tile_area=32768, depth=64)
    >>> grouped_tiles(GroupedGemmWork(num_groups=2, rows=96, n=256, k=64)).num_tiles
    4
    """
    rows, depth = work.rows / work.num_groups, float(work.k)
    if work.direction is Pass.WGRAD:
        rows, depth = depth, rows
    is_small = (rows <= SMALL_SIDE or work.n <= SMALL_SIDE) and work.precision is Precision.BF16
    height, width = SMALL_TILE if is_small else LARGE_TILE
    num_tiles = work.num_groups * math.ceil(rows / height) * math.ceil(work.n / width)
    return OutputTiles(num_tiles, height * width, TILE * math.ceil(depth / TILE))


def tiled_roofline_s(work: GemmWork, flops_per_s: float, bytes_per_s: float) -> float:
    """The roofline of a product in whole tiles, its output written once: what measured efficiencies relate to.

    Equation: max(2 pad(m) pad(n) k / peak, bytes(pad(m), pad(n), k) / bandwidth).
    Source: roofline model (Williams et al., CACM 52(4), 2009) over `padded` sides.

    >>> tiled_roofline_s(GemmWork(m=64, n=1, k=100), flops_per_s=1e3, bytes_per_s=1e9)
    819.2
    """
    m, n = int(padded(work.m)), int(padded(work.n))
    plain = GemmWork(m=m, n=n, k=work.k, precision=work.precision)
    return roofline_s(gemm_flops(m, n, work.k), gemm_bytes(plain), flops_per_s, bytes_per_s)


def roofline_s(flops: float, num_bytes: float, flops_per_s: float, bytes_per_s: float) -> float:
    """The least time for so much arithmetic and traffic.

    Equation: max(FLOPs / peak, bytes / bandwidth).
    Source: roofline model (Williams et al., CACM 52(4), 2009).

    >>> roofline_s(flops=100.0, num_bytes=10.0, flops_per_s=50.0, bytes_per_s=1.0)
    10.0
    """
    return max(flops / flops_per_s, num_bytes / bytes_per_s)


def sustained_s(
    roofline: float, efficiency: float, compute_s: float, sustained_fraction: float, written_s: float = 0.0
) -> float:
    """Time of a product: roofline over the measured efficiency, no faster than a thermally steady GPU sustains.

    Equation: max(roofline / efficiency, compute / sustained_fraction + 0.6 written), compute = FLOPs / peak, written
    the seconds that writing the output alone would take: the last wave of tiles has nothing to hide its writes under.
    A sustained fraction of 1 says that the efficiency itself was measured on a GPU at its power limit: the first term.
    Source: measured: thermally steady H100 SXM (700 W, random data): 677 TFLOP/s at 8192^3; GPT-3 175B TP 4 with 2,048
    tokens: forward 685, weight gradients 634 written in BF16 and 549 added into FP32 buffers. Short benchmarks of
    smaller products reach 0.80 of peak at boosted clocks.

    >>> sustained_s(roofline=1.0, efficiency=0.5, compute_s=1.0, sustained_fraction=0.75)
    2.0
    >>> sustained_s(roofline=1.0, efficiency=0.9, compute_s=1.0, sustained_fraction=0.8, written_s=0.25)
    1.4
    """
    if sustained_fraction == 1.0:
        return roofline / efficiency
    return max(roofline / efficiency, compute_s / sustained_fraction + EXPOSED_OUTPUT * written_s)
