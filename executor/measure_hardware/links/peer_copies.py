"""Messages that the copy engines of two GPUs exchange, both ways at once, and computation beside them.

One process drives both GPUs. PyTorch orders a copy after what the current streams of both GPUs were given before; each
direction has a pair of streams of its own, so that the two run at the same time.
"""

from __future__ import annotations

import math
from functools import cache

import torch

from meshwright.costmodel.program.operators import CollectiveWork
from meshwright.executor.measure_hardware.cuda_device import CudaDevice
from meshwright.executor.measure_hardware.entry import Entry, InterferenceEntry
from meshwright.executor.measure_hardware.journal import Interfered, Measured, Skipped
from meshwright.executor.measure_hardware.links.overlap import CudaLane, slowdowns
from meshwright.executor.measure_hardware.links.worker import Record, compute_lane, interference_sample
from meshwright.executor.measure_hardware.local_run import reason_of, sample_of
from meshwright.executor.measure_hardware.operators import build_operator
from meshwright.executor.measure_hardware.operators.values import normal
from meshwright.executor.measure_hardware.times import Times, times_of

MILLISECOND = 1e-3
SPAN_S = 2e-3
FEWEST, MOST, MOST_RUNS = 5, 30, 64
CHECKED = 4096


Streams = tuple[torch.cuda.Stream, torch.cuda.Stream]


@cache
def copy_streams(first: torch.device, second: torch.device) -> tuple[Streams, Streams]:
    """A stream of either GPU for each direction, made once: PyTorch has few, and would hand out those that compute."""
    forth, back = ((torch.cuda.Stream(first), torch.cuda.Stream(second)) for _ in range(2))
    return forth, back


class Exchange:
    """Buffers of one message size on two GPUs, and the copies between them."""

    def __init__(self, num_bytes: float, first: torch.device, second: torch.device) -> None:
        count = (int(num_bytes) // 2,)
        self.out_first, self.in_first = normal(count, first), normal(count, first)
        self.out_second, self.in_second = normal(count, second), normal(count, second)
        self.forth, self.back = copy_streams(first, second)
        for device in (first, second):
            torch.cuda.synchronize(device)

    def copy(self) -> None:
        """Both directions, neither waiting for the other."""
        with torch.cuda.stream(self.forth[1]), torch.cuda.stream(self.forth[0]):
            self.in_second.copy_(self.out_first, non_blocking=True)
        with torch.cuda.stream(self.back[0]), torch.cuda.stream(self.back[1]):
            self.in_first.copy_(self.out_second, non_blocking=True)

    def wait(self) -> None:
        """For both directions."""
        for stream in (*self.forth, *self.back):
            stream.synchronize()

    def is_right(self) -> bool:
        """Whether both messages arrived, by their first and last values."""
        self.copy()
        self.wait()
        pairs = ((self.in_second, self.out_first), (self.in_first, self.out_second))
        ends = (slice(None, CHECKED), slice(-CHECKED, None))
        return all(torch.equal(mine[end].cpu(), theirs[end].cpu()) for mine, theirs in pairs for end in ends)

    def seconds(self, runs: int) -> float:
        """Of one exchange, over some runs: that of the slower direction."""
        pairs = []
        for stream in (self.forth[0], self.back[1]):
            with torch.cuda.stream(stream):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record(stream)
                pairs.append((begin, end, stream))
        for _ in range(runs):
            self.copy()
        for _, end, stream in pairs:
            with torch.cuda.stream(stream):
                end.record(stream)
        for _, end, _ in pairs:
            end.synchronize()
        return max(float(begin.elapsed_time(end)) for begin, end, _ in pairs) * MILLISECOND / runs


def measure_peer_copies(entries: tuple[Entry, ...], record: Record, seconds: float) -> None:
    """Every message size, on the first two GPUs of this process."""
    for entry in entries:
        taken: list[Times] = []

        def measure(entry: Entry = entry, taken: list[Times] = taken) -> None:
            taken.append(_time(entry, seconds))

        reason = reason_of(measure)
        outcome = Skipped(what=entry.key, reason=reason) if reason else Measured(sample=sample_of(entry, taken[0]))
        record(entry.key, outcome)


def measure_copy_interference(device: CudaDevice, pairs: tuple[InterferenceEntry, ...], record: Record) -> None:
    """Computation on the first GPU beside an exchange with the second."""
    for pair in pairs:

        def measure(pair: InterferenceEntry = pair) -> None:
            with device.scope():
                exchange = _exchange(pair.communication)
                operator = build_operator(pair.compute, device.torch_device, device.l2_bytes)
                lane = compute_lane(device, lambda: operator.run(0))
                times = slowdowns(lane, CudaLane(exchange.copy, exchange.forth[0]), float, exchange.wait)
                exchange.wait()
            record(pair.key, Interfered(sample=interference_sample(pair, times)))

        reason = reason_of(measure)
        if reason:
            record(pair.key, Skipped(what=pair.key, reason=reason))
        device.tidy()


def _exchange(work: CollectiveWork) -> Exchange:
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    if not torch.cuda.can_device_access_peer(first, second):
        raise RuntimeError("the GPUs cannot read each other's memory")
    exchange = Exchange(work.num_bytes, first, second)
    if not exchange.is_right():
        raise RuntimeError("wrong result: a copy between GPUs did not arrive whole")
    return exchange


def _time(entry: Entry, seconds: float) -> Times:
    assert isinstance(entry.work, CollectiveWork)  # as the survey makes peer copies
    exchange = _exchange(entry.work)
    first_s = exchange.seconds(2)
    runs = max(1, min(MOST_RUNS, math.ceil(SPAN_S / first_s)))
    repeats = max(FEWEST, min(MOST, round(seconds / (runs * first_s))))
    return times_of([exchange.seconds(runs) for _ in range(repeats)])
