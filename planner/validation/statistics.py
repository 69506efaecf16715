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
