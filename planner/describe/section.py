"""A titled piece of a report: lines of text, then a table, then notes."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.costmodel.value import Value

GIB = 2.0**30


class Section(Value, frozen=True, kw_only=True):
    """Text for one heading. Every row has a cell for each column."""

    title: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


def gib(num_bytes: float) -> str:
    """GiB with one digit behind the point."""
    return f"{num_bytes / GIB:z.1f}"


def milliseconds(seconds: float, of_s: float, sign: str = "") -> str:
    """Milliseconds, as part of a time `of_s`: short ones with more digits behind the point.

    >>> milliseconds(0.41, 4.19), milliseconds(0.0004, 0.0062), milliseconds(1.5, 4.19, sign="+")
    ('410.0', '0.400', '+1,500.0')
    >>> milliseconds(-1e-6, 4.19)  # never "-0.0"
    '0.0'
    """
    digits = 1 if of_s >= 1.0 else 2 if of_s >= 0.1 else 3
    return f"{seconds * 1e3:{sign}z,.{digits}f}"


def percent(fraction: float) -> str:
    """Per cent with one digit behind the point."""
    return f"{fraction * 100:z.1f} %"


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers with runs as ranges.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][-1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
