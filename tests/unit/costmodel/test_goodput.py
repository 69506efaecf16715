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


GPU_S = 2112 * DAY
"""Of one GPU: 54 days x 16,384 / 419 (arXiv 2407.21783, section 3.3.4)."""


def percent(num_gpus: int, down_minutes: float, interval_s: float | None = None) -> float:
    """Effective time with checkpoints that block 2 s."""
    mean_s = run_mean_time_between_failures_s(GPU_S, num_gpus)
    return 100.0 * effective_fraction(interval_s or daly_interval_s(2.0, mean_s), 2.0, down_minutes * 60.0, mean_s)


def test_llama_3_fails_419_times_in_54_days() -> None:
    assert 54 * DAY / run_mean_time_between_failures_s(GPU_S, 16384) == pytest.approx(419, abs=0.5)


@pytest.mark.parametrize(
    ("num_gpus", "down_minutes", "published", "expected"),
    [
        (16384, 15.0, "Llama 3: over 90", 90.5),
        (16384, 5.0, "Llama 3: over 90", 95.5),
        (9600, 15.0, "ByteRobust: 97", 94.0),
        (9600, 5.0, "ByteRobust: 97", 97.0),
        (100_000, 15.0, "none", 58.3),
        (100_000, 5.0, "none", 80.9),
    ],
)
def test_effective_times_beside_published_ones(
    num_gpus: int, down_minutes: float, published: str, expected: float
) -> None:
    """The table of docs/circumstances.md, with the best interval."""
    assert percent(num_gpus, down_minutes) == pytest.approx(expected, abs=0.06), published


@pytest.mark.parametrize(("interval_minutes", "down_minutes"), [(10.0, 14.0), (30.0, 4.0)])
def test_the_downtime_that_llama_3_can_afford(interval_minutes: float, down_minutes: float) -> None:
    """With 90 % of the time effective: a minute more is too much, a minute less is not."""
    effective = [percent(16384, down_minutes + more, interval_minutes * 60.0) for more in (-1.0, 0.0, 1.0)]
    assert effective[0] > 90.0 > effective[2]
    assert effective[1] == pytest.approx(90.0, abs=0.2)


def test_megascale() -> None:
    """arXiv 2402.15627, section 6.3: over 90 % with over 100 recoveries in several weeks."""
    effective = [effective_fraction(1800.0, 2.0, 600.0, weeks * 7 * DAY / 100) for weeks in (3, 5)]
    assert effective == pytest.approx([0.92, 0.95], abs=0.002)


@pytest.mark.parametrize(("num_gpus", "hours"), [(16_384, 1.8), (131_072, 0.23)])
def test_failures_of_rsc_1(num_gpus: int, hours: float) -> None:
    """arXiv 2410.21680: 6.5 failures in 1,000 node-days, nodes of 8 GPUs."""
    assert run_mean_time_between_failures_s(8 * 1000 / 6.5 * DAY, num_gpus) / 3600.0 == pytest.approx(hours, rel=0.03)


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
