"""The times of repeated runs: median and spread."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.costmodel.value import Value


class Times(Value, frozen=True, kw_only=True):
    """Median, 10th and 90th percentile of one run's seconds, over `repeats` measurements.

    `reference_s`: the reference product's time beside it; None where none ran. `clock_hz` and `reference_clock_hz`:
    mean SM clock during the runs and during the reference product; None where clocks could not be read.
    """

    time_s: float
    low_s: float
    high_s: float
    repeats: int
    reference_s: float | None = None
    clock_hz: float | None = None
    reference_clock_hz: float | None = None

    @property
    def spread(self) -> float:
        """Distance between the percentiles over the median."""
        return (self.high_s - self.low_s) / self.time_s


def times_of(seconds: Sequence[float]) -> Times:
    """Of at least one measurement."""
    ordered = sorted(seconds)
    return Times(
        time_s=_quantile(ordered, 0.5),
        low_s=_quantile(ordered, 0.1),
        high_s=_quantile(ordered, 0.9),
        repeats=len(ordered),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
