"""Times one operator: many runs in a CUDA graph, over rotating inputs, until enough time has been spent.

A measurement spans about two milliseconds of runs, so that the events around it and the start of the graph do not
matter; at least five are taken. Between them the device runs its reference product: under its power limit a GPU changes
its clocks within milliseconds, by a fifth, and only what stands side by side can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import torch

from meshwright.executor.measure_hardware.device import Device, Work
from meshwright.executor.measure_hardware.operators import Runnable
from meshwright.executor.measure_hardware.times import Times, times_of

SPAN_S = 2e-3
FEWEST, MOST = 5, 40
TRIALS = 2
LONG_S = 5e-3
WARM_UP_SHARE = 0.2
SHORT_RUN_S = 4e-5
SHORT_RUN_SHARE = 0.3
MOST_RUNS = 1024
REASON_LENGTH = 240


def time_operator(
    runnable: Runnable, device: Device, seconds: float, refused: Callable[[str], None] = lambda _: None
) -> Times:
    """Time of one run. Kernels too short to draw much power get less of `seconds`.

    `refused` is told why where no CUDA graph takes the operator.
    """
    first_s = trial_s(lambda: runnable.run(0), device)
    runs = num_runs(first_s, runnable.num_sets)
    loop = recorded(_loop(runnable, runs), device, refused, capturable=runnable.capturable)
    span_s = trial_s(loop, device)
    device.keep_busy()
    each_s = span_s + device.reference_s()
    budget_s = seconds * (SHORT_RUN_SHARE if span_s / runs < SHORT_RUN_S else 1.0)
    for _ in range(math.ceil(WARM_UP_SHARE * budget_s / span_s) - 1):
        loop()
    repeats = max(FEWEST, min(MOST, round((1.0 - WARM_UP_SHARE) * budget_s / each_s)))
    return per_run(_timed(loop, device, repeats), runs)


def _timed(loop: Work, device: Device, repeats: int) -> Times:
    """Each measurement between two reference products, with the clocks of both where the device reads them."""
    seconds, clocks_hz = device.clocked_intervals([*[device.reference, loop] * repeats, device.reference])
    references = tuple((before + after) / 2 for before, after in pairwise(seconds[::2]))
    times = beside_reference(seconds[1::2], references)
    return msgspec.structs.replace(
        times, clock_hz=median_clock_hz(clocks_hz[1::2]), reference_clock_hz=median_clock_hz(clocks_hz[::2])
    )


def median_clock_hz(clocks_hz: Sequence[float]) -> float | None:
    """The median of those that could be read (0: not); None where none could.

    >>> median_clock_hz([1.5e9, 0.0, 1.7e9])
    1600000000.0
    """
    known = [clock for clock in clocks_hz if clock > 0.0]
    return times_of(known).time_s if known else None


def beside_reference(spans: Sequence[float], references: Sequence[float]) -> Times:
    """Times of the spans; over `reference_s` they are the median of each span over its own reference.

    The clocks move within milliseconds, so the two must be compared where they stand side by side.

    >>> beside_reference([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]).reference_s
    2.0
    """
    times = times_of(spans)
    ratio = times_of([span / reference for span, reference in zip(spans, references, strict=True)]).time_s
    return msgspec.structs.replace(times, reference_s=times.time_s / ratio)


def trial_s(work: Work, device: Device) -> float:
    """About how long the work takes: the least of a few trials, of which the first loads and chooses kernels."""
    loading_s = device.durations(work, 1)[0]
    return min(loading_s, *device.durations(work, 1 if loading_s > LONG_S else TRIALS))


def num_runs(run_s: float, num_sets: int) -> int:
    """Runs of one measurement: a whole number of rounds over the input sets, about `SPAN_S`, at least one round."""
    rounds = max(1, math.ceil(SPAN_S / (run_s * num_sets)))
    return max(num_sets, min(rounds * num_sets, MOST_RUNS // num_sets * num_sets))


def recorded(loop: Work, device: Device, refused: Callable[[str], None], *, capturable: bool) -> Work:
    """The loop as a graph; as it is where that cannot be (large kernels hide the host's time even so)."""
    if not (capturable and device.captures):
        return loop
    try:
        return device.capture(loop)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as problem:
        refused(f"{type(problem).__name__}: {problem}"[:REASON_LENGTH])
        return loop


def per_run(spans: Times, runs: int) -> Times:
    """From the time of a measurement to that of one run."""
    return msgspec.structs.replace(
        spans, time_s=spans.time_s / runs, low_s=spans.low_s / runs, high_s=spans.high_s / runs
    )


def _loop(runnable: Runnable, runs: int) -> Callable[[], None]:
    """Outputs of a round live side by side, so that writing them is not to the cache alone."""

    def loop() -> None:
        kept: list[object] = [None] * runnable.num_sets
        for run in range(runs):
            kept[run % runnable.num_sets] = runnable.run(run % runnable.num_sets)

    return loop
