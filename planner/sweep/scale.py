"""Axes of a picture: the unit in which people read a key, its label, and the values of points on it."""

from __future__ import annotations

from meshwright.costmodel.units import Dimension
from meshwright.costmodel.value import Value
from meshwright.planner.describe.comparison import dimension_of, value_words
from meshwright.planner.sweep.describe import short_key
from meshwright.planner.sweep.result import SweepResult

WIDE = 30.0
"""Ratio of the largest to the least value from which an axis is logarithmic."""

_UNITS = {
    Dimension.BYTES: ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    Dimension.BYTES_PER_S: ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")),
    Dimension.SECONDS: ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
    Dimension.FLOPS_PER_S: ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s")),
}


class Scale(Value, frozen=True, kw_only=True):
    """A key on an axis: SI values over `size` are in the unit of the label."""

    label: str
    size: float
    is_wide: bool

    def of(self, value: float | str | bool) -> float:
        """A value on the axis."""
        return float(value) / self.size


def is_numeric(result: SweepResult, place: int) -> bool:
    """Whether every value of the key is a number (a switch is none)."""
    return all(_is_number(row.values[place]) for row in result.rows) and bool(result.rows)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def scale_of(result: SweepResult, place: int) -> Scale:
    """The axis of a key of numbers: the largest unit in which the least value is 1 or more."""
    values = [float(row.values[place]) for row in result.rows]
    if _is_number(result.plan_values[place]):
        values.append(float(result.plan_values[place]))
    low, high = min(values), max(values)
    dimension = dimension_of(result.keys[place])
    label, size = result.keys[place], 1.0
    if dimension is not None:
        units = _UNITS[dimension]
        size, unit = next(((size, unit) for size, unit in units if low >= size), units[-1])
        label = f"{short_key(label)} [{unit}]"
    else:
        label = short_key(label)
    return Scale(label=label, size=size, is_wide=low > 0 and high / low >= WIDE)


def words(result: SweepResult, place: int, value: float | str | bool) -> str:
    """A value of a key as text."""
    return value_words(result.keys[place], value)


def distinct(result: SweepResult, place: int) -> list[int | float | str | bool]:
    """The values of a key: numbers from low to high, words in the order of the sweep."""
    values = list(dict.fromkeys(row.values[place] for row in result.rows))
    return sorted(values, key=lambda value: (isinstance(value, str), value)) if is_numeric(result, place) else values
