"""What looks sick: slow GPUs, slow links, low clocks, times that scatter."""

from __future__ import annotations

from collections import defaultdict

from meshwright.costmodel.program.operators import GemmWork, MemoryWork, Work
from meshwright.executor.measure_hardware.comparison import GBPS, HOST_COPY, TFLOPS, Comparison
from meshwright.executor.measure_hardware.nvidia_smi import SICK_REASONS, THROTTLE_REASONS
from meshwright.executor.measure_hardware.outcome import ProfileOutcome
from meshwright.hardware_profiles.measurements import Sample

SLOW_GPU = 0.10
HALF = 0.5
LEAST_SHARES = {"dense product, BF16": 0.6, "device copy": 0.8, HOST_COPY: 0.5}
WIDE_SPREAD = 0.2
MANY = 0.05
NO_GPU = "none"
SHORT_S = 2e-5
"""Spread of kernels shorter than this says nothing of the GPU."""


def warnings_of(outcome: ProfileOutcome, rows: tuple[Comparison, ...]) -> tuple[str, ...]:
    """One sentence for each."""
    samples = outcome.measurements.samples
    found = [
        *_slow_gpus(samples),
        *_slow_figures(rows),
        *_throttled(outcome.throttle),
        *_scattered(samples),
        *_unclocked(samples, outcome.measurements.machine.gpu),
        *(f"timed without a CUDA graph: {part.what} ({part.reason})" for part in outcome.uncaptured),
    ]
    return tuple(found)


def _slow_gpus(samples: tuple[Sample, ...]) -> list[str]:
    """The same work on every GPU, against the fastest of them."""
    times: dict[Work, dict[int, float]] = defaultdict(dict)
    for sample in samples:
        if isinstance(sample.work, GemmWork | MemoryWork):
            times[sample.work][sample.gpu] = sample.time_s
    found = []
    for work, by_gpu in times.items():
        fastest = min(by_gpu.values())
        words = "products" if isinstance(work, GemmWork) else "copies"
        found += [
            f"GPU {gpu} is {time_s / fastest - 1.0:.0%} slower at {words} than the fastest GPU beside it"
            for gpu, time_s in sorted(by_gpu.items())
            if time_s > (1.0 + SLOW_GPU) * fastest
        ]
    return found


def _slow_figures(rows: tuple[Comparison, ...]) -> list[str]:
    found = []
    for row in rows:
        is_link = row.unit == GBPS and row.figure not in LEAST_SHARES
        least = LEAST_SHARES.get(row.figure, HALF if is_link else 0.0)
        if row.data_sheet and row.unit in (GBPS, TFLOPS) and row.share < least:
            found.append(
                f"{row.figure} reaches {row.share:.0%} of what is expected ({row.measured:.0f} of {row.data_sheet:.0f} "
                f"{row.unit}); expected at least {least:.0%}"
            )
    return found


def _throttled(bits: int) -> list[str]:
    return [f"clocks were held down by {words}" for bit, words in THROTTLE_REASONS.items() if bits & bit & SICK_REASONS]


def _unclocked(samples: tuple[Sample, ...], gpu: str) -> list[str]:
    timed = [sample for sample in samples if sample.reference_s is not None]
    if gpu == NO_GPU or not timed or any(sample.clock_hz is not None for sample in timed):
        return []
    return ["SM clocks were not read (triton is missing or cannot compile): reference products alone tell the clocks"]


def _scattered(samples: tuple[Sample, ...]) -> list[str]:
    long = [sample for sample in samples if sample.time_s >= SHORT_S]
    wide = [sample for sample in long if (sample.high_s - sample.low_s) / sample.time_s > WIDE_SPREAD]
    if not long or len(wide) / len(long) <= MANY:
        return []
    return [
        f"{len(wide)} of {len(long)} samples scatter by more than {WIDE_SPREAD:.0%} between the 10th and 90th "
        "percentile: something else uses the GPU or its host"
    ]
