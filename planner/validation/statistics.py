"""How good predictions are: errors against measurements, summed up over rows, kinds and frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshwright.costmodel.value import Value


class ErrorSummary(Value, frozen=True, kw_only=True):
    """Errors of a set of rows. An error is predicted over measured tokens/s, less 1; without a prediction, none.

    `mape` is the mean of the absolute errors, `median_ape` and `p90_ape` their median and 90th percentile, `bias` the
    median of the signed ones: positive where predictions are too fast.
    """

    rows: int
    predicted: int
    mape: float | None
    median_ape: float | None
    p90_ape: float | None
    bias: float | None


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values lie below, linear between neighbours.

    >>> quantile([4.0, 1.0, 2.0, 3.0], 0.5)
    2.5
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def summarize(errors: Iterable[float | None]) -> ErrorSummary:
    """Sum up errors; None stands for a row without a prediction.

    >>> summarize([0.1, -0.3, None]).mape
    0.2
    """
    everything = list(errors)
    known = [error for error in everything if error is not None]
    absolute = [abs(error) for error in known]
    return ErrorSummary(
        rows=len(everything),
        predicted=len(known),
        mape=sum(absolute) / len(absolute) if known else None,
        median_ape=quantile(absolute, 0.5) if known else None,
        p90_ape=quantile(absolute, 0.9) if known else None,
        bias=quantile(known, 0.5) if known else None,
    )


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, equal values sharing the mean of theirs.

    >>> ranks([10.0, 30.0, 10.0])
    [1.5, 3.0, 1.5]
    """
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in set(values)}
    return [first[value] + (ordered.count(value) + 1) / 2 for value in values]


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks.

    >>> round(spearman([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0]), 6)
    0.8
    """
    a, b = ranks(one), ranks(other)
    mean = (len(a) + 1) / 2
    together = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    spread = (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5
    return together / spread if spread else 0.0
