"""The grid of a sweep: keys with the values that each takes, and the points that they span.

Nothing is listed until it is asked for: a grid of a billion points costs nothing but the refusal to evaluate it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from math import prod

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.changes import CHANGES, full_key
from meshwright.planner.draft import Draft

OPTION = "--sweep"
MAX_POINTS = 10_000
"""More points are evaluated only where that is asked for explicitly."""

_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?\s*(.*)")


class Range(Value, frozen=True, kw_only=True):
    """`start`, `start + step`, ... up to `stop`, which is one of them if the steps end there; `unit` behind each."""

    start: str
    stop: str
    step: str = "1"
    unit: str = ""

    def __len__(self) -> int:
        step, length = Decimal(self.step), Decimal(self.stop) - Decimal(self.start)
        return int(length // step) + 1 if step > 0 and length >= 0 else 0

    def __getitem__(self, place: int) -> str:
        value = Decimal(self.start) + place * Decimal(self.step)
        return f"{value:f}{'' if self.unit == 'x' else ' '}{self.unit}".rstrip()


class Axis(Value, frozen=True, kw_only=True):
    """A key (with its section) and the values that it takes, as text."""

    key: str
    values: tuple[str, ...] | Range


class Grid(Value, frozen=True, kw_only=True):
    """Every combination of the axes' values; the last axis changes fastest."""

    axes: tuple[Axis, ...]

    def __len__(self) -> int:
        return prod(len(axis.values) for axis in self.axes)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that change."""
        return tuple(axis.key for axis in self.axes)

    def point(self, index: int) -> dict[str, str]:
        """The values of a point, by key."""
        values = {}
        for axis in reversed(self.axes):
            index, place = divmod(index, len(axis.values))
            values[axis.key] = axis.values[place]
        return {key: values[key] for key in self.keys}

    def words(self) -> str:
        """How many points there are, and why.

        >>> Grid(axes=(Axis(key="a", values=("1", "2")), Axis(key="b", values=Range(start="1", stop="500")))).words()
        '1,000 points (2 x 500)'
        """
        sizes = " x ".join(f"{len(axis.values):,}" for axis in self.axes)
        return f"{len(self):,} points" + (f" ({sizes})" if len(self.axes) > 1 else "")


def single_point(values: Mapping[str, str]) -> Grid:
    """The grid of one point, at which keys (with their sections) have these values."""
    return Grid(axes=tuple(Axis(key=key, values=(value,)) for key, value in values.items()))


def parse_axes(texts: tuple[str, ...]) -> Grid:
    """The grid of `key=v1,v2,...` or `key=start..stop:step unit`, each given once.

    Raises `InputError` for an unknown key, a key without values or given twice, and a value given twice.
    """
    axes: dict[str, Axis] = {}
    for text in texts:
        key, separator, values = (part.strip() for part in text.partition("="))
        if not separator or not values:
            raise InputError(OPTION, text, "expected key=v1,v2,... with at least one value, as in mesh.ep=4,8,16")
        _add(axes, full_key(key, OPTION), _values(key, values))
    return _grid(axes)


def grid_of(values: Mapping[str, object]) -> Grid:
    """The grid of keys with a list of values each (or the text of one), for callers in Python."""
    axes: dict[str, Axis] = {}
    for key, listed in values.items():
        if isinstance(listed, str):
            found = _values(key, listed)
        elif isinstance(listed, Mapping) or not hasattr(listed, "__iter__"):
            raise InputError(OPTION, key, f"{listed!r} is not a list of values")
        else:
            found = _distinct(key, tuple(map(_text, listed)))
        _add(axes, full_key(key, OPTION), found)
    return _grid(axes)


def check_readable(grid: Grid, draft: Draft) -> None:
    """Raises `InputError` for a value that its key cannot take: a wrong type, a wrong unit."""
    for axis in grid.axes:
        change = CHANGES[axis.key]
        before = change.get(draft)
        for place in range(len(axis.values)):
            try:
                change.read(axis.key, axis.values[place], before)
            except InputError as error:
                where = OPTION if error.where == "--set" else error.where
                raise InputError(where, error.field, error.problem) from error


def check_size(grid: Grid, *, force: bool) -> None:
    """Raises `InputError` where a sweep is larger than anybody asks for by intention."""
    if len(grid) > MAX_POINTS and not force:
        raise InputError(OPTION, "", f"{grid.words()}; more than {MAX_POINTS:,} are evaluated only with --force")


def _add(axes: dict[str, Axis], key: str, values: tuple[str, ...] | Range) -> None:
    if key in axes:
        raise InputError(OPTION, key, "is given twice")
    axes[key] = Axis(key=key, values=values)


def _grid(axes: dict[str, Axis]) -> Grid:
    if not axes:
        raise InputError(OPTION, "", "nothing to sweep over, expected key=v1,v2,...")
    return Grid(axes=tuple(axes.values()))


def _values(key: str, text: str) -> tuple[str, ...] | Range:
    match = _RANGE.fullmatch(text)
    if match is None:
        return _with_units(key, _distinct(key, tuple(part.strip() for part in text.split(","))))
    start, stop, step, unit = match.groups()
    found = Range(start=start, stop=stop, step=step or "1", unit=unit)
    if not len(found):
        raise InputError(OPTION, key, f"{text!r} holds no value; expected start..stop:step with a step above 0")
    return found


def _with_units(key: str, values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses `100,400 Gbit/s`, in which 100 would be bytes a second: each value has its unit, or none has."""
    bare = [value for value in values if re.fullmatch(_NUMBER, value)]
    united = [value for value in values if value not in bare and re.fullmatch(rf"{_NUMBER}\s*[^\d\s.x@].*", value)]
    if bare and united:
        raise InputError(OPTION, key, f"{bare[0]!r} has no unit, but {united[0]!r} has; give each value its own unit")
    return values


def _distinct(key: str, values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or not all(values):
        raise InputError(OPTION, key, "has an empty value, expected key=v1,v2,...")
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise InputError(OPTION, key, f"value {twice!r} is given twice")
    return values


def _text(value: object) -> str:
    """A value as it would be typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "none"
    text = getattr(value, "value", value)
    return text.strip() if isinstance(text, str) else repr(_plain(text))


def _plain(number: object) -> object:
    """Python's own number for one of numpy's."""
    item = getattr(number, "item", None)
    return item() if callable(item) else number
