"""How far times of the same work lie apart."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.costmodel.value import Value


class Spread(Value, frozen=True, kw_only=True):
    """Median, 10th and 90th percentile."""

    median_s: float
    low_s: float
    high_s: float


def spread(times_s: Sequence[float]) -> Spread:
    """The spread of at least one time.

    >>> spread([5.0, 1.0, 3.0, 2.0, 4.0])
    Spread(median_s=3.0, low_s=1.0, high_s=5.0)
    """
    ordered = sorted(times_s)
    last = len(ordered) - 1
    middle = (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
    return Spread(median_s=middle, low_s=ordered[round(0.1 * last)], high_s=ordered[round(0.9 * last)])
