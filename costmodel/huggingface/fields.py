"""Typed access to the fields of a config.json: every wrong value becomes one line naming file, field and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meshwright.costmodel.errors import ModelError

LARGEST_SIZE: Final = 1_000_000_000
"""No dimension of a transformer is larger: what is, is a slip of the keyboard."""


ROUND_SIZE: Final = 1024
"""Stands for a size that is missing: divisible by heads, groups and the like."""


class ConfigFields:
    """The fields of one JSON object, read by name and type.

    `null` and a missing key are the same thing except in `nullable_integer`, as in transformers' own classes, where
    a default of `None` is what a missing key gets.
    """

    def __init__(self, values: Mapping[str, object], where: str, prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix
        self.where = where

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def error(self, name: str, problem: str) -> ModelError:
        """The error to raise for field `name`."""
        return ModelError(self.where, self._prefix + name, problem)

    def required_integer(self, name: str, *, minimum: int = 1, maximum: int = LARGEST_SIZE) -> int:
        """A whole number that must be there: the sizes that make one model differ from another."""
        if not self.has(name):
            raise self.error(name, f"missing, expected {_integer_words(minimum, maximum)}")
        return self._integer(name, minimum, maximum)

    def integer(self, name: str, default: int, *, minimum: int = 1, maximum: int = LARGEST_SIZE) -> int:
        """A whole number, or `default` where the field is missing or null."""
        return self._integer(name, minimum, maximum) if self.has(name) else default

    def nullable_integer(self, name: str, default: int | None, *, minimum: int = 1) -> int | None:
        """A whole number; `default` where the field is missing, None where it is null."""
        if name not in self._values:
            return default
        return self._integer(name, minimum, LARGEST_SIZE) if self.has(name) else None

    def boolean(self, name: str, default: bool) -> bool:
        """True or false, or `default` where the field is missing or null."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"{_shown(value)}, expected true or false")
        return value

    def text(self, name: str, default: str) -> str:
        """A string, or `default` where the field is missing or null."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, f"{_shown(value)}, expected a string")
        return value

    def items(self, name: str) -> tuple[object, ...]:
        """A list, empty where the field is missing or null."""
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(name, f"{_shown(value)}, expected a list")
        return tuple(value)

    def integer_items(self, name: str, *, minimum: int = 0) -> tuple[int, ...]:
        """A list of whole numbers, empty where the field is missing or null."""
        items = self.items(name)
        return tuple(self._checked(f"{name}[{i}]", item, minimum, LARGEST_SIZE) for i, item in enumerate(items))

    def is_list(self, name: str) -> bool:
        """Whether the field is a list: some families give one value for all layers or a list with one per layer."""
        return isinstance(self._values.get(name), list)

    def section(self, name: str) -> ConfigFields:
        """A nested object that must be there."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            found = "missing" if value is None else _shown(value)
            raise self.error(name, f"{found}, expected an object")
        return self._nested(value, name)

    def _nested(self, values: Mapping[str, object], name: str) -> ConfigFields:
        return ConfigFields(values, self.where, f"{self._prefix}{name}.")

    def _integer(self, name: str, minimum: int, maximum: int) -> int:
        return self._checked(name, self._values[name], minimum, maximum)

    def _checked(self, name: str, value: object, minimum: int, maximum: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self.error(name, f"{_shown(value)}, expected {_integer_words(minimum, maximum)}")
        return value


class LenientFields(ConfigFields):
    """Notes which required sizes are missing, and gives a round one instead: only to name all of them at once."""

    def __init__(self, values: Mapping[str, object], where: str, prefix: str = "") -> None:
        super().__init__(values, where, prefix)
        self.missing: list[str] = []

    def required_integer(self, name: str, *, minimum: int = 1, maximum: int = LARGEST_SIZE) -> int:
        """As of `ConfigFields`, but never an error where the field is missing."""
        if self.has(name):
            return super().required_integer(name, minimum=minimum, maximum=maximum)
        self.missing += [self._prefix + name] * (self._prefix + name not in self.missing)
        return max(minimum, min(ROUND_SIZE, maximum))

    def _nested(self, values: Mapping[str, object], name: str) -> ConfigFields:
        nested = LenientFields(values, self.where, f"{self._prefix}{name}.")
        nested.missing = self.missing
        return nested


def _integer_words(minimum: int, maximum: int) -> str:
    return f"a whole number between {minimum} and {maximum}"


def _shown(value: object) -> str:
    """The value as short text on one line. A huge whole number is not written out."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
