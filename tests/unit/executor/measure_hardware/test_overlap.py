from __future__ import annotations

import pytest

from meshwright.executor.measure_hardware.links.overlap import Lane, slowdowns


class World:
    """Two sides on one clock: while the other still runs, each takes `factor` times as long."""

    def __init__(self) -> None:
        self.now_s = 0.0


class FakeLane(Lane):
    def __init__(self, world: World, run_s: float, factor: float) -> None:
        self.world, self.run_s, self.factor = world, run_s, factor
        self.busy_until_s = 0.0
        self.other: FakeLane | None = None
        self.started: list[int] = []

    def start(self, runs: int) -> None:
        self.started.append(runs)
        self.busy_until_s = self.world.now_s + runs * self.run_s

    def timed(self, runs: int) -> float:
        begin_s = self.world.now_s
        for _ in range(runs):
            covered = self.other is not None and self.other.busy_until_s > self.world.now_s
            self.world.now_s += self.run_s * (self.factor if covered else 1.0)
        return (self.world.now_s - begin_s) / runs

    def outlasts(self, other: Lane) -> bool:
        del other
        lasted = self.busy_until_s >= self.world.now_s
        self.world.now_s = max(self.world.now_s, self.busy_until_s)
        return lasted


def _lanes(compute_factor: float, communication_factor: float) -> tuple[FakeLane, FakeLane]:
    world = World()
    compute, communication = FakeLane(world, 1e-3, compute_factor), FakeLane(world, 7e-4, communication_factor)
    compute.other, communication.other = communication, compute
    return compute, communication


@pytest.mark.parametrize(("compute_factor", "communication_factor"), [(1.2, 3.0), (1.0, 1.0), (4.0, 6.0)])
def test_both_directions_are_measured_under_cover(compute_factor: float, communication_factor: float) -> None:
    compute, communication = _lanes(compute_factor, communication_factor)
    times = slowdowns(compute, communication, float, lambda: None)
    assert times.compute_alone_s == pytest.approx(1e-3)
    assert times.communication_alone_s == pytest.approx(7e-4)
    assert times.compute_beside_s == pytest.approx(compute_factor * 1e-3)
    assert times.communication_beside_s == pytest.approx(communication_factor * 7e-4)


def test_a_cover_that_ends_too_early_is_made_longer() -> None:
    compute, communication = _lanes(1.0, 6.0)
    slowdowns(compute, communication, float, lambda: None)
    assert compute.started == sorted(compute.started)
    assert len(compute.started) > 1


def test_a_side_that_cannot_be_covered_is_an_error() -> None:
    compute, communication = _lanes(1.0, 100.0)
    with pytest.raises(RuntimeError, match="ended first"):
        slowdowns(compute, communication, float, lambda: None)
