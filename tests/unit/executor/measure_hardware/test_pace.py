from __future__ import annotations

import pytest

from meshwright.executor.measure_hardware.pace import LEAST_S, MOST_S, OVERHEAD_S, Pace


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_time_that_is_left_is_shared() -> None:
    clock = FakeClock()
    pace = Pace(1.0, 10, clock)
    assert pace.next_s() == pytest.approx(0.1 - OVERHEAD_S)
    clock.now_s += 0.28  # the first one took long: nine share what is left
    assert pace.next_s() == pytest.approx(max(LEAST_S, 0.72 / 9 - OVERHEAD_S))


def test_a_sample_gets_neither_too_little_nor_too_much() -> None:
    clock = FakeClock()
    assert Pace(-5.0, 10, clock).next_s() == LEAST_S
    assert Pace(500.0, 10, clock).next_s() == MOST_S


def test_a_whole_survey_ends_in_time() -> None:
    clock = FakeClock()
    pace = Pace(40.0, 400, clock)
    for _ in range(400):
        clock.now_s += pace.next_s() + OVERHEAD_S
    assert clock.now_s - 100.0 <= 40.5
