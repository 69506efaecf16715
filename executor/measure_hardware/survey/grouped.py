"""Grouped products to measure: few large experts to many small ones, even and skewed."""

from __future__ import annotations

from meshwright.costmodel.program.operators import GroupedGemmWork, Pass, Precision
from meshwright.executor.measure_hardware.entry import Entry, Extent
from meshwright.executor.measure_hardware.survey.skew import zipf_rows
from meshwright.hardware_profiles.measurements import Implementation

MOST_ROWS = 131072
MOST_WEIGHTS = 4_000_000_000
"""Values of all experts together: more than that is not on one GPU beside its optimizer."""

LONGEST_FLOPS = 1.0e13
ROWS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
COARSE_ROWS = (64, 256, 1024, 4096)

# (n, k): fine-grained experts of 768, 1536 and 2048 columns, and those of Mixtral's size.
SHAPES = ((1536, 2048), (2048, 768), (4096, 2048), (3072, 4096), (4096, 7168), (28672, 4096), (4096, 14336))
MAIN_SHAPES = ((1536, 2048), (4096, 7168))
GROUPS = (4, 8, 32, 128)
MAIN_GROUPS = (8, 32, 128)
SKEWED = ((8, 2048), (32, 1024), (64, 512), (128, 256), (128, 1024))


def grouped_entries(extent: Extent) -> tuple[Entry, ...]:
    """Entries of `GroupedGemmWork`; skewed ones say how many rows each group has."""
    if extent is Extent.TINY:
        return _tiny()
    if extent is Extent.QUICK:
        return _quick()
    cells = dict.fromkeys(
        [
            *((groups, rows, shape) for shape in MAIN_SHAPES for groups in MAIN_GROUPS for rows in ROWS),
            *((groups, rows, shape) for shape in SHAPES for groups in GROUPS for rows in COARSE_ROWS),
        ]
    )
    even = [(groups, rows * groups, shape) for groups, rows, shape in cells]
    coarse = [(groups, rows * groups, shape) for shape in SHAPES for groups in MAIN_GROUPS for rows in COARSE_ROWS]
    summed = [(groups, rows * groups, shape) for shape in MAIN_SHAPES for groups in MAIN_GROUPS for rows in (256, 2048)]
    skewed = [(groups, rows * groups, shape) for groups, rows in SKEWED for shape in MAIN_SHAPES]
    return (
        *_entries(even),
        *_entries(coarse, Pass.DGRAD),
        *_entries(coarse, Pass.WGRAD),
        *_entries(summed, Pass.WGRAD, accumulates=True),
        *_entries(coarse, precision=Precision.FP8),
        *_entries(summed, Pass.WGRAD, Precision.FP8),
        *_entries(skewed, skewed=True),
        *_entries(skewed, Pass.WGRAD, skewed=True),
    )


Cell = tuple[int, int, tuple[int, int]]


def _tiny() -> tuple[Entry, ...]:
    cells: list[Cell] = [(4, 128, (32, 16))]
    return (
        *_entries(cells),
        *_entries(cells, Pass.DGRAD),
        *_entries(cells, Pass.WGRAD, skewed=True),
        *_entries(cells, Pass.WGRAD, accumulates=True),
    )


def _quick() -> tuple[Entry, ...]:
    cells: list[Cell] = [
        (groups, rows * groups, shape) for shape in MAIN_SHAPES for groups, rows in ((8, 2048), (128, 256))
    ]
    return (
        *_entries(cells),
        *_entries(cells, Pass.WGRAD),
        *_entries(cells, precision=Precision.FP8),
        *_entries(cells, skewed=True),
    )


def _entries(
    cells: list[Cell],
    direction: Pass = Pass.FORWARD,
    precision: Precision = Precision.BF16,
    *,
    accumulates: bool = False,
    skewed: bool = False,
) -> tuple[Entry, ...]:
    entries = []
    for groups, rows, (n, k) in cells:
        if rows > MOST_ROWS or groups * n * k > MOST_WEIGHTS or 2.0 * rows * n * k > LONGEST_FLOPS:
            continue
        work = GroupedGemmWork(
            num_groups=groups,
            rows=rows,
            n=n,
            k=k,
            direction=direction,
            precision=precision,
            accumulates_fp32=accumulates,
        )
        entries.append(
            Entry(
                work=work,
                implementation=Implementation.GROUPED_MM,
                rows_per_group=zipf_rows(rows, groups) if skewed else (),
            )
        )
    return tuple(entries)
