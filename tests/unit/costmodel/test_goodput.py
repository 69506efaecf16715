"""Closed forms of failures and checkpoints, against published figures and optima found by search."""

from __future__ import annotations

import math

import pytest

from meshwright.costmodel.formulas.goodput import (
    daly_interval_s,
    effective_fraction,
    run_mean_time_between_failures_s,
    waiting_fraction,
    young_interval_s,
)

DAY = 86400.0


def test_llama_3_loses_a_gpu_every_three_hours() -> None:
    """arXiv 2407.21783: 419 unexpected interruptions in 54 days on 16,384 GPUs, 90 % of the time effective."""
    per_gpu = 54 * DAY * 16384 / 419
    assert run_mean_time_between_failures_s(per_gpu, 16384) == pytest.approx(54 * DAY / 419)
    fraction = effective_fraction(600.0, 2.0, 15 * 60.0, 54 * DAY / 419)
    assert 0.88 < fraction < 0.92


@pytest.mark.parametrize(("hours", "minutes"), [(24.0, 117), (6.0, 57), (0.25, 9.1)])
def test_daly_intervals_are_the_published_ones(hours: float, minutes: float) -> None:
    """Daly 2006, figures 3 to 5: delta 5 min."""
    assert daly_interval_s(300.0, hours * 3600.0) / 60.0 == pytest.approx(minutes, rel=0.006)


@pytest.mark.parametrize("write_s", [0.1, 30.0, 300.0, 1200.0])
def test_the_interval_is_the_best_one(write_s: float) -> None:
    mean_s = 3600.0
    best = max(effective_fraction(tau / 10, write_s, 600.0, mean_s) for tau in range(10, 40_000))
    chosen = effective_fraction(daly_interval_s(write_s, mean_s), write_s, 600.0, mean_s)
    assert chosen == pytest.approx(best, rel=2e-4)
    assert effective_fraction(young_interval_s(write_s, mean_s), write_s, 600.0, mean_s) <= best * (1 + 1e-9)


def test_hopeless_checkpoints_are_written_once_per_failure() -> None:
    assert daly_interval_s(7200.0, 3600.0) == 3600.0


def test_first_order_losses_add_up() -> None:
    """Rare failures: checkpoints, downtime, unsafe and half-finished intervals lose their shares independently."""
    fraction = effective_fraction(1000.0, 1.0, 500.0, 1e6, store_s=200.0)
    assert 1.0 - fraction == pytest.approx(1 / 1000 + (500 + 200 + 500) / 1e6, rel=0.01)


def test_failures_faster_than_floats() -> None:
    assert effective_fraction(1000.0, 1.0, 1e9, 1.0) == 0.0


def test_erlang_by_hand() -> None:
    """Offered load 2, three servers: (8 / 6) / (1 + 2 + 2 + 8 / 6)."""
    assert waiting_fraction(2, 1.0, 2.0) == pytest.approx((8 / 6) / (1 + 2 + 2 + 8 / 6))
    poisson = [math.exp(-2.0) * 2.0**n / math.factorial(n) for n in range(4)]
    assert waiting_fraction(2, 1.0, 2.0) == pytest.approx(poisson[3] / sum(poisson))


def test_more_spares_wait_less() -> None:
    waiting = [waiting_fraction(spares, 3600.0, 7200.0) for spares in range(12)]
    assert waiting == sorted(waiting, reverse=True)
    assert waiting[0] == pytest.approx(2 / 3)
    assert waiting[-1] < 1e-4
