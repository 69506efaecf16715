"""Mean clocks from readings of counters that differ from SM to SM."""

from __future__ import annotations

import sys

import pytest
import torch

from meshwright.executor.measure_hardware.clock_probe import ClockMarks, clock_reader, mean_clocks_hz

CPU = torch.device("cpu")
NUM_SMS = 4


class FakeGpu:
    """Counters of each SM began at different times; blocks reach `reached` SMs only."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000
        self.cycles = torch.tensor([10**6, 5 * 10**12, 77, 10**9])
        self.reached = list(range(NUM_SMS))

    def run(self, seconds: float, clock_hz: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self.cycles += round(seconds * clock_hz)

    def read(self, readings: torch.Tensor, num_sms: int) -> None:
        assert num_sms == NUM_SMS
        readings[self.reached, 0] = self.cycles[self.reached]
        readings[self.reached, 1] = self.now_ns


def test_each_interval_has_its_own_clock() -> None:
    gpu = FakeGpu()
    marks = ClockMarks(3, NUM_SMS, CPU, gpu.read)
    marks.mark(0)()
    gpu.run(2e-3, 1.4e9)
    marks.mark(1)()
    gpu.run(1e-3, 1.755e9)
    marks.mark(2)()
    assert marks.clocks_hz() == pytest.approx((1.4e9, 1.755e9), rel=1e-6)


def test_sms_that_no_block_reached_are_left_out() -> None:
    gpu = FakeGpu()
    marks = ClockMarks(3, NUM_SMS, CPU, gpu.read)
    gpu.reached = [0, 1]
    marks.mark(0)()
    gpu.run(2e-3, 1.4e9)
    gpu.reached = [1, 2]
    marks.mark(1)()
    gpu.run(1e-3, 1.755e9)
    gpu.reached = [3]
    marks.mark(2)()
    assert marks.clocks_hz() == pytest.approx((1.4e9, 0.0), rel=1e-6)


def test_a_counter_that_began_again_tells_nothing() -> None:
    readings = torch.tensor([[[1000, 1000]], [[10, 2000]]])
    assert mean_clocks_hz(readings) == (0.0,)


def test_without_triton_there_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert clock_reader(NUM_SMS, CPU) is None
