"""A value as plain data for JSON: its fields, and the properties that follow from them."""

from __future__ import annotations

import inspect
from enum import Enum

import msgspec


def plain(value: object) -> object:
    """Structs as mappings of fields and properties, all the way down.

    >>> from meshwright.planner.explain.difference import TermDifference
    >>> plain(TermDifference(name="step", one=1.0, other=3.0))
    {'name': 'step', 'one': 1.0, 'other': 3.0, 'more': 2.0}
    """
    if isinstance(value, msgspec.Struct):
        names = (*value.__struct_fields__, *_properties(type(value)))
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _properties(kind: type) -> tuple[str, ...]:
    return tuple(name for name, member in inspect.getmembers(kind) if isinstance(member, property))
