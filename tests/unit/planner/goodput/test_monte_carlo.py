"""Random runs against the closed form, and a run by hand."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.formulas.goodput import effective_fraction, waiting_fraction
from meshwright.planner.goodput import Interruptions, simulate_runs

replace = msgspec.structs.replace
STOPS = Interruptions(
    mean_time_between_failures_s=20_000.0,
    checkpoint_interval_s=900.0,
    checkpoint_write_s=20.0,
    checkpoint_store_s=0.0,
    detection_s=600.0,
    restart_s=300.0,
    num_spare_nodes=0,
    repair_s=0.0,
    waiting_fraction=0.0,
    effective_fraction=0.0,
)


def _stops(**fields: float) -> Interruptions:
    """With the closed form of its effective share."""
    stops = replace(STOPS, **fields)
    waiting = waiting_fraction(stops.num_spare_nodes, stops.mean_time_between_failures_s, stops.repair_s)
    fraction = effective_fraction(
        stops.checkpoint_interval_s,
        stops.checkpoint_write_s,
        stops.downtime_s,
        stops.mean_time_between_failures_s,
        stops.checkpoint_store_s,
    )
    return replace(stops, waiting_fraction=waiting, effective_fraction=fraction * (1 - waiting))


@pytest.mark.parametrize(
    "stops",
    [
        _stops(),
        _stops(mean_time_between_failures_s=2_000.0),  # failures during restarts count
        _stops(checkpoint_store_s=500.0, mean_time_between_failures_s=5_000.0),
        _stops(detection_s=0.0, restart_s=0.0, checkpoint_interval_s=10_000.0),
    ],
)
def test_long_runs_have_the_mean_of_the_closed_form(stops: Interruptions) -> None:
    training_s = 300 * stops.mean_time_between_failures_s
    runs = simulate_runs(stops, training_s, seed=0, num_runs=400)
    assert runs is not None
    assert runs.mean_wall_s == pytest.approx(training_s / stops.effective_fraction, abs=4 * runs.standard_error_s)
    assert runs.standard_error_s < 0.005 * runs.mean_wall_s


@pytest.mark.parametrize(("spares", "repair_s"), [(0, 40_000.0), (1, 40_000.0), (3, 60_000.0)])
def test_waiting_for_repairs_is_that_of_erlang(spares: int, repair_s: float) -> None:
    """Rare, quick restarts, so that repairs are what a run waits for."""
    stops = _stops(
        num_spare_nodes=spares, repair_s=repair_s, mean_time_between_failures_s=40_000.0, detection_s=1.0, restart_s=1.0
    )
    training_s = 500 * stops.mean_time_between_failures_s
    runs = simulate_runs(stops, training_s, seed=1, num_runs=400)
    assert runs is not None
    assert stops.waiting_fraction > 0.005
    assert runs.mean_wall_s == pytest.approx(training_s / stops.effective_fraction, rel=0.01)


def test_without_failures_only_checkpoints_cost() -> None:
    """2,000 s in intervals of 900 s: two checkpoints, none at the end."""
    stops = _stops(mean_time_between_failures_s=1e15)
    runs = simulate_runs(stops, 2_000.0, seed=0, num_runs=3)
    assert runs is not None
    assert runs.wall_interval_s == (2_040.0, 2_040.0)
    assert runs.mean_failures == 0.0


def test_the_same_seed_gives_the_same_numbers() -> None:
    stops = _stops()
    assert simulate_runs(stops, 1e6, seed=5) == simulate_runs(stops, 1e6, seed=5)
    assert simulate_runs(stops, 1e6, seed=5) != simulate_runs(stops, 1e6, seed=6)


def test_the_interval_holds_nine_runs_of_ten() -> None:
    runs = simulate_runs(_stops(), 1e6, seed=2)
    assert runs is not None
    low, high = runs.wall_interval_s
    assert 1e6 < low < runs.mean_wall_s < high
    assert runs.effective_fraction_interval == pytest.approx((1e6 / high, 1e6 / low), rel=1e-3)


def test_longer_runs_draw_fewer() -> None:
    short, long = (simulate_runs(_stops(), training_s, seed=0) for training_s in (1e5, 2e8))
    assert short is not None
    assert long is not None
    assert short.num_runs == 1000 > long.num_runs >= 50


def test_a_run_that_never_ends_is_not_simulated() -> None:
    assert simulate_runs(_stops(mean_time_between_failures_s=100.0), 1e6, seed=0) is None
