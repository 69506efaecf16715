"""Times one collective: the slowest rank's median. Short ones in CUDA graphs, long ones as eager code calls them."""

from __future__ import annotations

import math
from collections.abc import Callable

from meshwright.executor.measure_hardware.device import Device, Work
from meshwright.executor.measure_hardware.links.ranks import Ranks
from meshwright.executor.measure_hardware.timer import per_run
from meshwright.executor.measure_hardware.times import Times, times_of

SPAN_S = 2e-3
EAGER_FROM_S = 2.5e-4
"""The host launches a collective in well under this: from here on the GPU is what is waited for."""

FEWEST, MOST = 5, 40
MOST_RUNS = 64
TRIALS = 2
WARM_UP_SHARE = 0.2


def time_collective(call: Callable[[int], None], num_sets: int, ranks: Ranks, device: Device, seconds: float) -> Times:
    """All ranks take part and get the same result."""
    device.durations(lambda: call(0), 1)  # connects
    first_s = ranks.largest(min(device.durations(lambda: call(0), TRIALS)))
    runs = max(1, min(MOST_RUNS, math.ceil(SPAN_S / first_s)))

    def loop() -> None:
        for run in range(runs):
            call(run % num_sets)

    work: Work = loop if first_s >= EAGER_FROM_S or not device.captures else device.capture(loop)
    ranks.wait()
    span_s = ranks.largest(min(device.durations(work, 2)))
    for _ in range(math.ceil(WARM_UP_SHARE * seconds / span_s) - 1):
        work()
    repeats = max(FEWEST, min(MOST, round((1.0 - WARM_UP_SHARE) * seconds / span_s)))
    spans = times_of(device.durations(work, repeats))
    return max(ranks.gathered(per_run(spans, runs)), key=lambda times: times.time_s)
