"""A field that `--set` and `--sweep` can change, and how its values are read from text."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from math import isfinite
from typing import Any, TypeAlias

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.units import Dimension, parse_quantity
from meshwright.costmodel.value import Value
from meshwright.planner.draft import Draft

OPTION = "--set"
_FACTOR = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)x")
_SWITCH = {"on": True, "true": True, "off": False, "false": False}

Read: TypeAlias = Callable[[str, str, Any], Any]
"""From a key (for errors), the text and the value that it replaces (what a factor such as 2x multiplies)."""


class Change(Value, frozen=True, kw_only=True):
    """A field: `read(key, text, before)` gives its value, `get` and `put` reach it. `dimension`: of a quantity."""

    read: Read
    get: Callable[[Draft], Any]
    put: Callable[[Draft, Any], Draft]
    dimension: Dimension | None = None


# How values are read.


def count(key: str, text: str, before: Any) -> int:  # noqa: ANN401  one signature for all readers
    """A whole number >= 1, or a factor on what it was that gives one."""
    value = _scaled(text, before)
    if not value.isdecimal() or int(value) < 1:
        raise InputError(OPTION, key, f"{text!r} is not a positive whole number")
    return int(value)


def count_or_none(key: str, text: str, before: Any) -> int:  # noqa: ANN401
    """A whole number >= 0."""
    return 0 if text == "0" else count(key, text, before)


def _scaled(text: str, before: object) -> str:
    """`2x` of a whole number as digits; any other text as it is."""
    factor = _FACTOR.fullmatch(text)
    if factor is None or not isinstance(before, int):
        return text
    scaled = Decimal(factor[1]) * before
    return str(int(scaled)) if scaled == int(scaled) else text


def number(low: float, *, above: bool = False) -> Read:
    """A finite number of at least `low` (or `above` it), or a factor on what it was."""

    def read(key: str, text: str, before: Any) -> float:  # noqa: ANN401
        factor = _FACTOR.fullmatch(text)
        try:
            value = float(factor[1]) * before if factor and isinstance(before, float) else float(text)
        except ValueError:
            value = float("nan")
        if not (isfinite(value) and (value > low if above else value >= low)):
            raise InputError(OPTION, key, f"{text!r} is not a number {'>' if above else '>='} {low:g}")
        return value

    return read


def switch(key: str, text: str, before: Any) -> bool:  # noqa: ANN401, ARG001
    """`on` or `off` (or true, false)."""
    if text.lower() not in _SWITCH:
        raise InputError(OPTION, key, f"{text!r} is neither on nor off")
    return _SWITCH[text.lower()]


def choice(kind: type[StrEnum]) -> Read:
    """A member of an enumeration."""

    def read(key: str, text: str, before: Any) -> StrEnum:  # noqa: ANN401, ARG001
        if text not in [member.value for member in kind]:
            raise InputError(OPTION, key, f"{text!r} is unknown; expected one of {', '.join(kind)}")
        return kind(text)

    return read


def name_of(names: Callable[[], tuple[str, ...]]) -> Read:
    """A name of a list that is read when it is asked for."""

    def read(key: str, text: str, before: Any) -> str:  # noqa: ANN401
        if text not in (*names(), before):
            raise InputError(OPTION, key, f"{text!r} is unknown; expected one of {', '.join(names())}")
        return text

    return read


def quantity(dimension: Dimension) -> Read:
    """A quantity with its unit, a plain number of SI units, or a factor on what it was, as in 2x."""

    def read(key: str, text: str, before: Any) -> float:  # noqa: ANN401
        factor = _FACTOR.fullmatch(text)
        try:
            value = float(factor[1]) * before if factor else float(text)
        except ValueError:
            return parse_quantity(text, dimension, where=OPTION, field=key)
        if not (isfinite(value) and value > 0.0):
            raise InputError(OPTION, key, f"{text!r} is not a positive finite quantity, as in {dimension.value} or 2x")
        return value

    return read


# Where values lie.


def field(read: Read, section: str, name: str, dimension: Dimension | None = None) -> Change:
    """A field of one of the draft's parts, whose own checks are all there is to check."""

    def put(draft: Draft, value: Any) -> Draft:  # noqa: ANN401
        part = msgspec.structs.replace(getattr(draft, section), **{name: value})
        return msgspec.structs.replace(draft, **{section: part})

    return Change(read=read, get=lambda draft: getattr(getattr(draft, section), name), put=put, dimension=dimension)


def given(read: Read, key: str, get: Callable[[Draft], Any], dimension: Dimension | None = None) -> Change:
    """A field that must agree with others, which may change in the same breath: settled when all are known."""

    def known(draft: Draft) -> Any:  # noqa: ANN401
        return draft.given_value(key, lambda: get(draft))

    return Change(read=read, get=known, put=lambda draft, value: draft.with_given(key, value), dimension=dimension)
