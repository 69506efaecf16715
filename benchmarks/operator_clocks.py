"""The SM clock of every operator inside a layer that runs for seconds: which clock belongs to which operator?

    python benchmarks/operator_clocks.py

A power-limited GPU changes its clocks within milliseconds. Here the operators of a dense layer run in turn, as in a
training step, and the GPU's counters are read between them. Beside it: the same operators alone, each until its own
clock has settled. Needs one GPU; about a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch

from meshwright.costmodel.program.operators import AttentionWork, GemmWork, Work
from meshwright.executor.layer_timing.machine import describe_machine
from meshwright.executor.measure_hardware.cuda_device import CudaDevice
from meshwright.executor.measure_hardware.device import Clocked
from meshwright.executor.measure_hardware.entry import Entry, Extent
from meshwright.executor.measure_hardware.operators import Runnable, build_operator
from meshwright.executor.measure_hardware.survey.attention import attention_pairs
from meshwright.executor.measure_hardware.sustained import layer_entries
from meshwright.executor.measure_hardware.timer import median_clock_hz
from meshwright.hardware_profiles.measurements import Implementation
from meshwright.planner.dated_record import origin_of, write_record

SETTLING_S, ROUNDS = 5.0, 40
ALONE_S = 0.4


def main() -> int:
    """Measure, print a table, write a record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    device = CudaDevice(0)
    layers = {"cuDNN attention": layer_entries(Extent.FULL), "FA2 attention": _with_fa2(layer_entries(Extent.FULL))}
    record = origin_of(__file__).head | {
        "machine": describe_machine(torch.device("cuda"), 1),
        "layers": {name: _measured(name, entries, device) for name, entries in layers.items()},
    }
    write_record(record, options.output)
    return 0


def _with_fa2(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    plain = tuple(entry for entry in entries if not isinstance(entry.work, AttentionWork))
    return (*plain, *attention_pairs(Implementation.FA2, (128, 128), 1, 32, 8, 8192, causal=True))


def _measured(name: str, entries: tuple[Entry, ...], device: CudaDevice) -> list[dict[str, object]]:
    with device.scope():
        operators = [build_operator(entry, device.torch_device, device.l2_bytes) for entry in entries]
        alone = [_alone(operator, device) for operator in operators]
        inside = _inside(operators, device)
    print(f"\n{name}: operator, us alone, in the layer; MHz alone, in the layer; cycles in the layer over alone")
    rows: list[dict[str, object]] = []
    for entry, (alone_s, alone_hz), (inside_s, inside_hz) in zip(entries, alone, inside, strict=True):
        cycles = inside_s * inside_hz / (alone_s * alone_hz)
        print(
            f"{_label(entry.work):<34}{alone_s * 1e6:9.1f}{inside_s * 1e6:9.1f}"
            f"{alone_hz / 1e6:8.0f}{inside_hz / 1e6:8.0f}{cycles:8.3f}"
        )
        rows.append(
            {
                "operator": _label(entry.work),
                "alone_s": alone_s,
                "inside_s": inside_s,
                "alone_clock_hz": alone_hz,
                "inside_clock_hz": inside_hz,
            }
        )
    whole_s = sum(time_s for time_s, _ in inside)
    clock_hz = sum(time_s * hz for time_s, hz in inside) / whole_s
    print(f"{'sum':<34}{sum(s for s, _ in alone) * 1e6:9.1f}{whole_s * 1e6:9.1f}{'':8}{clock_hz / 1e6:8.0f}")
    return rows


def _alone(operator: Runnable, device: CudaDevice) -> tuple[float, float]:
    """Seconds of a run and clock, after as many runs as the clock needs to settle."""
    first_s = min(device.durations(lambda: operator.run(0), 3))
    for _ in range(round(ALONE_S / first_s)):
        operator.run(0)
    runs = max(1, round(2e-3 / first_s))

    def span() -> None:
        for _ in range(runs):
            operator.run(0)

    seconds, clocks_hz = device.clocked_intervals([span] * 20)
    return median(seconds) / runs, _clock_hz(clocks_hz)


def _inside(operators: list[Runnable], device: CudaDevice) -> list[tuple[float, float]]:
    """Seconds and clock of each operator while all run in turn."""
    works: list[Callable[[], object]] = [partial(operator.run, 0) for operator in operators]
    round_s = sum(device.intervals(works))
    for _ in range(round(SETTLING_S / round_s)):
        for work in works:
            work()
    found: Clocked = device.clocked_intervals(works * ROUNDS)
    count = len(works)
    return [(median(found.seconds[place::count]), _clock_hz(found.clocks_hz[place::count])) for place in range(count)]


def _clock_hz(clocks_hz: Sequence[float]) -> float:
    """The median of what was read; nothing can be told where no clock was."""
    clock_hz = median_clock_hz(clocks_hz)
    if clock_hz is None:
        raise SystemExit("SM clocks cannot be read: triton is missing or cannot compile the clock probe")
    return clock_hz


def _label(work: Work) -> str:
    if isinstance(work, GemmWork):
        return f"{work.direction.value} {work.m} x {work.n} x {work.k}"
    if isinstance(work, AttentionWork):
        return f"attention {'backward' if work.backward else 'forward'}"
    return str(getattr(work, "kernel", type(work).__name__))


if __name__ == "__main__":
    sys.exit(main())
