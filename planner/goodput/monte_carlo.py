"""Whole training runs at random: failures strike, work is lost, nodes are repaired, runs wait. All runs at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.simulate.durations import Array
from meshwright.costmodel.value import Value
from meshwright.planner.goodput.interruptions import Interruptions

MOST_RUNS, FEWEST_RUNS = 1000, 50
FAILURES_SIMULATED = 4_000_000
"""How many failures to simulate at most, which decides how many runs are drawn."""

LEAST_FRACTION = 0.02
"""Below this effective share of its time a run is not simulated: it would not end."""

Indices = npt.NDArray[np.int64]


class SimulatedRuns(Value, frozen=True, kw_only=True):
    """Wall seconds of `num_runs` runs: mean with its standard error, and the interval that holds 90 % of them."""

    num_runs: int
    mean_wall_s: float
    standard_error_s: float
    wall_interval_s: tuple[float, float]
    mean_effective_fraction: float
    effective_fraction_interval: tuple[float, float]
    mean_failures: float


def simulate_runs(stops: Interruptions, training_s: float, seed: int, num_runs: int = 0) -> SimulatedRuns | None:
    """Runs of `training_s` seconds of training; None where they would hardly get on. `num_runs` 0: as many as pay.

    The same seed gives the same numbers.
    """
    if stops.effective_fraction < LEAST_FRACTION:
        return None
    expected = training_s / stops.effective_fraction / stops.mean_time_between_failures_s
    drawn = num_runs or min(MOST_RUNS, max(FEWEST_RUNS, int(FAILURES_SIMULATED / max(1.0, expected))))
    runs = _Runs(stops, training_s, drawn, np.random.default_rng(seed))
    runs.finish()
    fractions = training_s / runs.now_s
    return SimulatedRuns(
        num_runs=drawn,
        mean_wall_s=float(runs.now_s.mean()),
        standard_error_s=float(runs.now_s.std(ddof=1) / np.sqrt(drawn)) if drawn > 1 else 0.0,
        wall_interval_s=_interval(runs.now_s),
        mean_effective_fraction=float(fractions.mean()),
        effective_fraction_interval=_interval(fractions),
        mean_failures=float(runs.num_failures.mean()),
    )


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, (0.05, 0.95))
    return float(low), float(high)


class _Runs:
    """The state of all runs: wall seconds, training left, when each node that is away comes back."""

    def __init__(self, stops: Interruptions, training_s: float, num_runs: int, generator: np.random.Generator) -> None:
        self.stops, self.generator = stops, generator
        self.now_s = np.zeros(num_runs)
        self.left_s = np.full(num_runs, training_s)
        self.num_failures = np.zeros(num_runs)
        self.back_s = np.zeros((num_runs, stops.num_spare_nodes + 1))

    def finish(self) -> None:
        """Train until nothing is left: in each turn every unfinished run trains to its end or to its next failure."""
        going = np.flatnonzero(self.left_s > 0.0)
        while going.size:
            failed = self._train(going)
            going = failed
            while failed.size:
                failed = self._recover(failed)

    def _train(self, runs: Indices) -> Indices:
        """Train to the end, or to a failure, which throws a run back to its last safe checkpoint: the runs that fail.

        A run saves after every interval, except at its end.
        """
        interval_s, write_s = self.stops.checkpoint_interval_s, self.stops.checkpoint_write_s
        until_s = self._until_failure(runs)
        saves = np.ceil(self.left_s[runs] / interval_s) - 1.0
        needed_s = self.left_s[runs] + saves * write_s
        ends = needed_s <= until_s
        self.now_s[runs] += np.where(ends, needed_s, until_s)
        safe = np.floor((until_s - self.stops.checkpoint_store_s) / (interval_s + write_s))
        saved = np.clip(safe, 0.0, saves)
        self.left_s[runs] = np.where(ends, 0.0, self.left_s[runs] - saved * interval_s)
        failed: Indices = runs[~ends]
        return failed

    def _recover(self, runs: Indices) -> Indices:
        """A node goes for repair; detection, waiting for a node if there is no spare, restart: the runs that fail anew.

        Nothing fails while a run waits.
        """
        stops = self.stops
        self.num_failures[runs] += 1
        detected_s = self.now_s[runs] + stops.detection_s
        place = self.back_s[runs].argmin(axis=1)
        self.back_s[runs, place] = np.maximum(detected_s, self.back_s[runs, place]) + stops.repair_s
        complete_s = np.maximum(detected_s, self.back_s[runs].min(axis=1))
        until_s = self._until_failure(runs)
        anew = until_s < stops.downtime_s
        struck_s = np.where(
            until_s < stops.detection_s, self.now_s[runs] + until_s, complete_s + until_s - stops.detection_s
        )
        self.now_s[runs] = np.where(anew, struck_s, complete_s + stops.restart_s)
        failed: Indices = runs[anew]
        return failed

    def _until_failure(self, runs: Indices) -> Array:
        return self.generator.exponential(self.stops.mean_time_between_failures_s, len(runs))
