"""How computation and communication slow each other down.

Each is timed alone, then inside the other: while one is timed, the other has been started before and runs on until
after the last timed run. If it ended too early, it is given more runs and the measurement is repeated; if it still
does, that is an error. Each runs on a stream of its own; both streams have the same priority, as in a framework that
does nothing about it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from meshwright.executor.measure_hardware.device import Work

TIMED_S = 0.03
FEWEST_RUNS = 4
MARGIN = 2.5
"""How much longer the covering side would run alone than the timed side alone."""

ATTEMPTS = 3
MILLISECOND = 1e-3

Agree = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdowns:
    """Seconds of one run of each side, alone and beside the other."""

    compute_alone_s: float
    compute_beside_s: float
    communication_alone_s: float
    communication_beside_s: float


class Lane(ABC):
    """One side: something that runs on its own, is started, and whose runs are timed."""

    @abstractmethod
    def start(self, runs: int) -> None:
        """Enqueue some runs, and remember when the last one ends."""

    @abstractmethod
    def timed(self, runs: int) -> float:
        """Seconds of one of some runs; waits for them."""

    @abstractmethod
    def outlasts(self, other: Lane) -> bool:
        """Whether the runs started here ended after the runs timed there. Waits for both."""


class CudaLane(Lane):
    """Work on a stream of its own."""

    def __init__(self, work: Work, stream: torch.cuda.Stream) -> None:
        self.work = work
        self.stream = stream
        self.end = torch.cuda.Event(enable_timing=True)

    def start(self, runs: int) -> None:
        """Enqueue them on the stream."""
        with torch.cuda.stream(self.stream):
            for _ in range(runs):
                self.work()
            self.end.record(self.stream)

    def timed(self, runs: int) -> float:
        """Between events of the stream."""
        begin = torch.cuda.Event(enable_timing=True)
        with torch.cuda.stream(self.stream):
            self.work()  # the first one meets the other side; it is not counted
            begin.record(self.stream)
        self.start(runs)
        self.end.synchronize()
        return float(begin.elapsed_time(self.end)) * MILLISECOND / runs

    def outlasts(self, other: Lane) -> bool:
        """By the events at both ends."""
        assert isinstance(other, CudaLane)  # lanes of one kind meet
        self.end.synchronize()
        return float(other.end.elapsed_time(self.end)) >= 0.0


class HostLane(Lane):
    """Work that is done when its call returns: for tests where there is no GPU. Nothing overlaps."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def start(self, runs: int) -> None:
        """Do them."""
        for _ in range(runs):
            self.work()

    def timed(self, runs: int) -> float:
        """By the host's clock."""
        begin = time.perf_counter()
        self.start(runs)
        return max(1e-9, (time.perf_counter() - begin) / runs)

    def outlasts(self, other: Lane) -> bool:
        """There is nothing to outlast."""
        del other
        return True


def slowdowns(compute: Lane, communication: Lane, agree: Agree, wait: Callable[[], None]) -> Slowdowns:
    """Both sides, alone and beside each other. `agree` gives the largest of all ranks' values, `wait` waits for all.

    Alone is measured before and after beside, and averaged: clocks drift while the GPU works. A `RuntimeError`, on all
    ranks alike, where one side cannot be kept running beside the other.
    """
    compute_s, communication_s = _alone(compute, agree, wait), _alone(communication, agree, wait)
    compute_beside_s = _beside(compute, communication, compute_s, communication_s, agree, wait)
    communication_beside_s = _beside(communication, compute, communication_s, compute_s, agree, wait)
    return Slowdowns(
        compute_alone_s=(compute_s + _alone(compute, agree, wait)) / 2,
        communication_alone_s=(communication_s + _alone(communication, agree, wait)) / 2,
        compute_beside_s=compute_beside_s,
        communication_beside_s=communication_beside_s,
    )


def _alone(lane: Lane, agree: Agree, wait: Callable[[], None]) -> float:
    """Seconds of a run of `lane` with nothing else."""
    wait()
    first_s = agree(lane.timed(2))
    wait()
    return agree(lane.timed(_runs(first_s)))


def _beside(lane: Lane, cover: Lane, lane_s: float, cover_s: float, agree: Agree, wait: Callable[[], None]) -> float:
    """Seconds of a run of `lane` while `cover` runs all the time."""
    runs = _runs(lane_s)
    covering = math.ceil(MARGIN * (runs + 2) * lane_s / cover_s) + 1
    for _ in range(ATTEMPTS):
        wait()
        cover.start(covering)
        time_s = lane.timed(runs)
        covered = cover.outlasts(lane)
        time_s = agree(time_s)
        if agree(0.0 if covered else 1.0) == 0.0:
            return time_s
        covering *= 2
    raise RuntimeError(f"the side beside it ended first {ATTEMPTS} times: it is slowed by more than what was measured")


def _runs(run_s: float) -> int:
    return max(FEWEST_RUNS, round(TIMED_S / run_s))
