"""The time charts as data for the page's script: rows of slices, each a compact list.

A slice is [start, end, colour, label, text under the pointer, opacity]; times are seconds, the text is an index into
`texts`, so that what repeats is stored once.
"""

from __future__ import annotations

from typing import TypeAlias

from meshwright.costmodel.value import Value

Slice: TypeAlias = tuple[float, float, str, str, int, float]


class ChartRow(Value, frozen=True, kw_only=True):
    """One line of a chart. `group` titles the rows that share it; a `thin` row is half as high."""

    label: str
    slices: tuple[Slice, ...]
    group: str = ""
    thin: bool = False


class TimeChart(Value, frozen=True, kw_only=True):
    """Rows over a time axis from 0 to `end_s`."""

    end_s: float
    rows: tuple[ChartRow, ...]
    texts: tuple[str, ...]


class TextPool:
    """Numbers texts, equal ones alike."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, words: str) -> int:
        """The number of a text."""
        return self._numbers.setdefault(words, len(self._numbers))

    def texts(self) -> tuple[str, ...]:
        """All texts in the order of their numbers."""
        return tuple(self._numbers)
