"""Which output tiles cuBLAS chooses for dense products in BF16, by the names of its kernels.

    python benchmarks/product_tiles.py    one GPU, half a minute; prints a table, writes a record

For every product of the survey of `meshwright profile`, and for those that 16 seeds keep apart. Those of
`costmodel/formulas/tiled_products.py` are among the 31 commonest.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from meshwright.costmodel.program.operators import GemmWork, Precision
from meshwright.executor.layer_timing.machine import describe_machine
from meshwright.executor.measure_hardware.entry import Entry, Extent
from meshwright.executor.measure_hardware.operators.dense import dense_product
from meshwright.executor.measure_hardware.survey.checks import check_entries
from meshwright.executor.measure_hardware.survey.dense import dense_entries
from meshwright.planner.dated_record import origin_of, write_record

KERNEL = re.compile(r"nvjet_sm\d+_\w+?_(?P<columns>\d+)x(?P<rows>\d+)_\d+x\d+_\d+x\d+_(?P<rest>\w+)")
SEEDS = range(1, 17)
AT_ONCE = 100
SHOWN = 25


def main() -> int:
    """Run every product once under the profiler."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    works = _works(dense_entries(Extent.FULL))
    tiles: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for start in range(0, len(works), AT_ONCE):
        for name in _kernels(works[start : start + AT_ONCE]):
            if found := KERNEL.match(name):
                larger, smaller = sorted((int(found["rows"]), int(found["columns"])), reverse=True)
                tiles[f"{larger}x{smaller}"] += 1
            else:
                others[name[:60]] += 1
    for tile, count in tiles.most_common(SHOWN):
        print(f"{tile:>9}{count:6}")
    print(f"{len(works)} products; {len(tiles)} tiles; other kernels: {dict(others.most_common(5))}")
    record = origin_of(__file__).head | {
        "machine": describe_machine(torch.device("cuda"), 1),
        "products": len(works),
        "tiles": dict(tiles.most_common()),
        "others": dict(others.most_common()),
    }
    write_record(record, options.output)
    return 0


def _works(grid: tuple[Entry, ...]) -> list[GemmWork]:
    """The survey's products in BF16, and those that it keeps apart, of a few seeds."""
    entries = (*grid, *(entry for seed in SEEDS for entry in check_entries(grid, seed)))
    works = (entry.work for entry in entries)
    return [work for work in dict.fromkeys(works) if isinstance(work, GemmWork) and work.precision is Precision.BF16]


def _kernels(works: Iterable[GemmWork]) -> Iterator[str]:
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for work in works:
            dense_product(work, torch.device("cuda"), 1).run(0)
        torch.cuda.synchronize()
    return (event.name for event in found.events() if "nvjet" in event.name or "gemm" in event.name)


if __name__ == "__main__":
    raise SystemExit(main())
