"""The one way of timing: runs in a CUDA graph over rotating inputs that together exceed the cache, between CUDA events.

A graph leaves out the host's time and takes nothing that waits for the device. Its runs are repeated to some
milliseconds; the median over several such spans is the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import torch

from meshwright.kernels.checking.spread import Spread, spread

Work = Callable[[], object]

SPAN_S: Final = 4e-3
SPANS: Final = 11
MOST_RUNS: Final = 2000
CACHES: Final = 4
MOST_SETS: Final = 256
LEAST_SETS: Final = 2
BFLOAT16_BYTES: Final = 2
COPIED_BYTES: Final = (2**28, 2**29, 2**30)
COPIED_WIDTH: Final = 4096


class RunTime(Spread, frozen=True, kw_only=True):
    """Seconds of one run, by spans of many. `captured`: in a CUDA graph, so without waits."""

    captured: bool


def num_sets(set_bytes: int, cache_bytes: int) -> int:
    """Sets of inputs whose sizes add up to several times the cache.

    >>> num_sets(2**20, 50 * 2**20), num_sets(2**30, 50 * 2**20), num_sets(0, 50 * 2**20)
    (200, 2, 256)
    """
    wanted = math.ceil(CACHES * cache_bytes / max(set_bytes, 1))
    return max(LEAST_SETS, min(MOST_SETS, wanted))


def cache_bytes(device: torch.device) -> int:
    """The size of the device's second-level cache."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def time_works(works: Sequence[Work], *, capture: bool = True) -> RunTime:
    """Time of one run; `works` do the same on different inputs. What waits for the device can't be captured."""
    for work in works[:LEAST_SETS]:  # loads and compiles
        work()
    torch.cuda.synchronize()
    run_round = _recorded(works) if capture else partial(_run_all, works)
    run_round()
    round_s = _span_s(run_round, 1)
    rounds = max(1, min(math.ceil(SPAN_S / round_s), MOST_RUNS // len(works)))
    _span_s(run_round, rounds)
    runs = rounds * len(works)
    spans = spread([_span_s(run_round, rounds) / runs for _ in range(SPANS)])
    return RunTime(median_s=spans.median_s, low_s=spans.low_s, high_s=spans.high_s, captured=capture)


def _run_all(works: Sequence[Work]) -> None:
    """A round over all inputs. Outputs live side by side, so that each run writes memory of its own."""
    kept = [work() for work in works]
    del kept


def _recorded(works: Sequence[Work]) -> Work:
    """A round as a graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _run_all(works)
    return graph.replay


def _span_s(run_round: Work, rounds: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(rounds):
        run_round()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3


def copy_bytes_per_s(device: torch.device, sizes_bytes: Sequence[int] = COPIED_BYTES) -> float:
    """The ceiling: bytes read and written a second by the best of several copies on the device.

    One way alone sets the ceiling too low: a contiguous copy becomes a memcpy node of the graph, which reaches 2.4 TB/s
    on an H100 where an elementwise kernel, which reads and writes as much, reaches 3.0. So both are tried, and a copy
    between strided rows (a kernel as well), at sizes that exceed the cache many times; outputs are allocated before.
    """
    return max(2 * size / time_works(works).median_s for size in sizes_bytes for works in _copies(device, size))


def _copies(device: torch.device, num_bytes: int) -> Iterator[list[Work]]:
    """Ways to read and write so many bytes, each on rotating buffers."""
    rows = num_bytes // (BFLOAT16_BYTES * COPIED_WIDTH)
    pairs = [
        tuple(torch.randn(rows, 2 * COPIED_WIDTH, dtype=torch.bfloat16, device=device) for _ in range(2))
        for _ in range(LEAST_SETS)
    ]
    halves = [tuple(buffer.view(2, rows, COPIED_WIDTH)[0] for buffer in pair) for pair in pairs]
    strided = [tuple(buffer[:, :COPIED_WIDTH] for buffer in pair) for pair in pairs]
    yield [partial(target.copy_, source) for source, target in halves]
    yield [partial(torch.neg, source, out=target) for source, target in halves]
    yield [partial(target.copy_, source) for source, target in strided]
