from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch

from meshwright.executor.measure_hardware.device import Clocked, Device, Work
from meshwright.executor.measure_hardware.operators import Runnable
from meshwright.executor.measure_hardware.timer import FEWEST, MOST, num_runs, recorded, time_operator


class FakeDevice(Device):
    """Time passes as the work says, plus 5 microseconds of host for what is not captured."""

    captures = True

    def __init__(self, *, refuses: bool = False) -> None:
        self.torch_device = torch.device("cpu")
        self.l2_bytes = 0.0
        self.now_s = 0.0
        self.host_s = 5e-6
        self.refuses = refuses
        self.num_measured = 0

    def scope(self) -> nullcontext[None]:
        return nullcontext()

    def capture(self, work: Work) -> Work:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay() -> None:
            host_s, self.host_s = self.host_s, 0.0
            work()
            self.host_s = host_s

        return replay

    def intervals(self, works: Sequence[Work]) -> tuple[float, ...]:
        seconds = []
        for work in works:
            start_s = self.now_s
            work()
            seconds.append(self.now_s - start_s)
        self.num_measured = len(works) // 2
        return tuple(seconds)

    def reference(self) -> None:
        self.now_s += 1e-3

    def heat(self, seconds: float) -> None:
        self.now_s += seconds

    def keep_busy(self) -> None:
        self.now_s += 1e-3

    def tidy(self) -> None: ...

    def check_alive(self) -> None: ...

    def release(self) -> None: ...


def _runnable(device: FakeDevice, run_s: float, num_sets: int = 3) -> tuple[Runnable, list[int]]:
    used: list[int] = []

    def run(index: int) -> None:
        used.append(index)
        device.now_s += run_s + device.host_s

    return Runnable(run=run, num_sets=num_sets, check=lambda: 0.0), used


def test_the_time_of_one_run_without_the_host() -> None:
    device = FakeDevice()
    runnable, used = _runnable(device, 2e-5)
    times = time_operator(runnable, device, 0.1)
    assert times.time_s == pytest.approx(2e-5)
    assert FEWEST <= times.repeats <= MOST
    assert set(used) == {0, 1, 2}


@pytest.mark.parametrize("run_s", [2e-6, 1e-4, 1e-3, 2e-2])
def test_the_time_that_it_takes_is_about_what_was_given(run_s: float) -> None:
    device = FakeDevice()
    runnable, used = _runnable(device, run_s, num_sets=1)
    time_operator(runnable, device, 0.1)
    assert device.num_measured >= FEWEST
    assert device.now_s <= max(0.13, 10 * run_s)
    assert len(used) * run_s <= max(0.13, 10 * run_s)


def test_clocks_of_the_sample_and_of_the_reference_are_told_apart() -> None:
    class Clocking(FakeDevice):
        def clocked_intervals(self, works: Sequence[Work]) -> Clocked:
            clocks = [1.8e9 if work == self.reference else 1.4e9 for work in works]
            return Clocked(self.intervals(works), tuple(clocks))

    device = Clocking()
    runnable, _ = _runnable(device, 2e-5)
    times = time_operator(runnable, device, 0.1)
    assert times.clock_hz == 1.4e9
    assert times.reference_clock_hz == 1.8e9
    assert times.time_s == pytest.approx(2e-5)
    plain = FakeDevice()
    without = time_operator(_runnable(plain, 2e-5)[0], plain, 0.1)
    assert without.clock_hz is None
    assert without.reference_clock_hz is None


def test_what_cannot_be_captured_runs_as_it_is() -> None:
    device = FakeDevice(refuses=True)
    runnable, _ = _runnable(device, 1e-4)
    reasons: list[str] = []
    assert time_operator(runnable, device, 0.05, reasons.append).time_s == pytest.approx(1.05e-4)
    assert reasons == ["RuntimeError: operation not permitted when stream is capturing"]


def test_no_memory_is_not_a_refusal_of_the_capture() -> None:
    class Full(FakeDevice):
        def capture(self, work: Work) -> Work:
            del work
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        recorded(lambda: None, Full(), lambda _: None, capturable=True)


@pytest.mark.parametrize(("run_s", "num_sets", "runs"), [(1e-3, 1, 2), (1e-3, 7, 7), (1e-6, 3, 1023), (1.0, 1, 1)])
def test_runs_are_whole_rounds_over_the_input_sets(run_s: float, num_sets: int, runs: int) -> None:
    assert num_runs(run_s, num_sets) == runs
