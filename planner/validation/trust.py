"""How far predictions can be trusted on the cluster that a table was measured on."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.costmodel.value import Value
from meshwright.planner.validation.reasons import reasons
from meshwright.planner.validation.rows import RowText
from meshwright.planner.validation.statistics import quantile
from meshwright.planner.validation.validation import RowResult

ENOUGH_ROWS = 5
MOST_OFF = 15


class RowOff(Value, frozen=True, kw_only=True):
    """A row outside of its interval, and what is known about it."""

    id: str
    error: float
    reasons: tuple[str, ...]


class Trust(Value, frozen=True, kw_only=True):
    """`verdict` in words; errors of the shipped descriptions; how many measurements lie in their 90 % interval."""

    verdict: str
    rows: int
    median_ape: float | None
    bias: float | None
    inside: int
    off: tuple[RowOff, ...]


def trust(table: Sequence[RowText], results: Sequence[RowResult]) -> Trust:
    """Errors, bias and coverage over the rows that could be predicted."""
    known = [row for row in results if row.error is not None and row.inside is not None]
    errors = [row.error for row in known if row.error is not None]
    inside = sum(bool(row.inside) for row in known)
    median = quantile([abs(error) for error in errors], 0.5) if errors else None
    bias = quantile(errors, 0.5) if errors else None
    return Trust(
        verdict=_verdict(len(results), errors, inside),
        rows=len(known),
        median_ape=median,
        bias=bias,
        inside=inside,
        off=_off(table, known),
    )


def _off(table: Sequence[RowText], known: Sequence[RowResult]) -> tuple[RowOff, ...]:
    texts = {text.id: text for text in table}
    outside = sorted((row for row in known if not row.inside), key=lambda row: -abs(row.error or 0.0))
    return tuple(
        RowOff(id=row.id, error=row.error or 0.0, reasons=reasons(texts[row.id])) for row in outside[:MOST_OFF]
    )


def _verdict(total: int, errors: list[float], inside: int) -> str:
    if not errors:
        return f"None of {total} runs can be predicted: nothing is known about this cluster."
    median, bias = quantile([abs(error) for error in errors], 0.5), quantile(errors, 0.5)
    words = (
        f"Half of {len(errors)} predictions are within {median:.1%} of the measurement, their bias is {bias:+.1%}"
        f" (positive: too fast); {inside} of {len(errors)} measurements lie in their 90 % interval."
    )
    if len(errors) < ENOUGH_ROWS:
        return f"{words} Fewer than {ENOUGH_ROWS} runs decide little."
    if inside >= 0.8 * len(errors):
        return f"{words} The intervals hold here: predictions can be trusted as far as they say."
    if abs(bias) > 0.5 * median:
        return f"{words} They do not hold: a common cause shifts them, which --fit may find."
    return f"{words} They do not hold: rows differ among themselves in what is not printed."
