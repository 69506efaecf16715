"""Dense products to measure: a grid for the tables, coarser ones for other layouts and for FP8."""

from __future__ import annotations

from itertools import product

from meshwright.costmodel.program.operators import GemmWork, Pass, Precision
from meshwright.executor.measure_hardware.entry import Entry, Extent
from meshwright.hardware_profiles.measurements import Implementation

LONGEST_FLOPS = 1.7e13
"""Products beyond this take 25 ms on a fast GPU and tell nothing that smaller ones do not."""

# Finer where products are small or narrow: how many output tiles there are for 132 SMs decides there.
ROWS = (128, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384, 32768)
WIDTHS = (256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384)
DEPTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
COARSE_ROWS = (256, 1024, 4096, 16384)
COARSE_WIDTHS = (512, 1024, 2048, 4096, 16384)
WGRAD_WIDTHS = (256, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384)
SUM_WIDTHS = (1024, 4096, 8192, 16384)
FP8_ROWS = (128, 512, 2048, 8192, 32768)
FP8_WIDTHS = (1024, 2048, 4096, 8192, 16384)
FP8_SUM_WIDTHS = (1024, 4096, 16384)
VOCABULARY = 65536
VOCABULARY_ROWS = (1024, 4096, 16384)
VOCABULARY_DEPTHS = (1024, 4096, 8192)

Shape = tuple[int, int, int]


def dense_entries(extent: Extent) -> tuple[Entry, ...]:
    """Entries of (m, n, k) as `GemmWork` means them."""
    if extent is Extent.TINY:
        return _tiny()
    if extent is Extent.QUICK:
        return _quick()
    vocabulary = list(product(VOCABULARY_ROWS, (VOCABULARY,), VOCABULARY_DEPTHS))
    coarse = [(n, k) for n in COARSE_WIDTHS for k in COARSE_WIDTHS]
    return (
        *_entries([*product(ROWS, WIDTHS, DEPTHS), *vocabulary]),
        *_entries([(m, n, k) for m in COARSE_ROWS for n, k in coarse], Pass.DGRAD),
        *_entries(list(product(WGRAD_WIDTHS, WGRAD_WIDTHS, COARSE_ROWS)), Pass.WGRAD),
        *_entries(list(product(SUM_WIDTHS, SUM_WIDTHS, COARSE_ROWS)), Pass.WGRAD, accumulates=True),
        *_entries(list(product(FP8_ROWS, FP8_WIDTHS, FP8_WIDTHS)), precision=Precision.FP8),
        *_entries(list(product(FP8_WIDTHS[1:4], FP8_WIDTHS[1:4], FP8_SUM_WIDTHS)), Pass.DGRAD, Precision.FP8),
        *_entries(list(product(FP8_WIDTHS[1:], FP8_WIDTHS[1:], FP8_SUM_WIDTHS)), Pass.WGRAD, Precision.FP8),
        *_entries(list(product(FP8_SUM_WIDTHS, FP8_SUM_WIDTHS, (4096,))), Pass.WGRAD, Precision.FP8, accumulates=True),
    )


def _tiny() -> tuple[Entry, ...]:
    shapes: list[Shape] = [(32, 48, 64)]
    return (
        *_entries(shapes),
        *_entries(shapes, Pass.DGRAD),
        *_entries(shapes, Pass.WGRAD),
        *_entries(shapes, Pass.WGRAD, accumulates=True),
        *_entries(shapes, precision=Precision.FP8),
        *_entries(shapes, Pass.WGRAD, Precision.FP8),
    )


def _quick() -> tuple[Entry, ...]:
    few: list[Shape] = [(8192, 8192, 8192), (4096, 4096, 4096)]
    return (
        *_entries(list(product((256, 2048, 8192), (1024, 4096, 8192), (1024, 4096, 8192)))),
        *_entries(few, Pass.DGRAD),
        *_entries(few, Pass.WGRAD),
        *_entries(few, Pass.WGRAD, accumulates=True),
        *_entries([*few, (8192, 8192, 2048), (2048, 8192, 8192)], precision=Precision.FP8),
        *_entries(few, Pass.WGRAD, Precision.FP8),
    )


def _entries(
    shapes: list[Shape],
    direction: Pass = Pass.FORWARD,
    precision: Precision = Precision.BF16,
    *,
    accumulates: bool = False,
) -> tuple[Entry, ...]:
    works = (
        GemmWork(m=m, n=n, k=k, direction=direction, precision=precision, accumulates_fp32=accumulates)
        for m, n, k in shapes
        if 2.0 * m * n * k <= LONGEST_FLOPS
    )
    return tuple(Entry(work=work, implementation=Implementation.CUBLAS) for work in works)
