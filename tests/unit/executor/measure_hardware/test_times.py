from __future__ import annotations

import pytest

from meshwright.executor.measure_hardware.times import times_of


def test_median_and_percentiles() -> None:
    times = times_of([float(second) for second in range(11, 0, -1)])
    assert (times.time_s, times.low_s, times.high_s, times.repeats) == (6.0, 2.0, 10.0, 11)
    assert times.spread == pytest.approx(8.0 / 6.0)


def test_between_two_measurements() -> None:
    times = times_of([1.0, 2.0])
    assert times.time_s == 1.5
    assert times.low_s == pytest.approx(1.1)
    assert times.high_s == pytest.approx(1.9)


def test_one_measurement() -> None:
    times = times_of([3.0])
    assert (times.low_s, times.time_s, times.high_s, times.repeats) == (3.0, 3.0, 3.0, 1)
