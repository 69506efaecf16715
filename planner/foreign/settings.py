"""What a configuration of another framework says: its settings, and what became of every option it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.foreign.option_table import (
    IgnoredOption,
    MappedOption,
    Reads,
    UnmodelledOption,
    known_options,
    nearest_option,
    option_of_setting,
    option_table,
)

SettingValue: TypeAlias = bool | int | float | str | tuple[str, ...] | tuple[int, ...] | None


class GivenOption(Value, frozen=True, kw_only=True):
    """An option as it is written: its name, its values, and the line of the file (0: not known)."""

    name: str
    values: tuple[str, ...]
    line: int = 0

    @property
    def text(self) -> str:
        """As on a command line."""
        return " ".join((self.name, *self.values))


class UnknownOption(Value, frozen=True, kw_only=True):
    """An option that the framework does not have; `suggestion` is the nearest one that it has, if any is near."""

    option: str
    suggestion: str
    line: int


class UnmodelledUse(Value, frozen=True, kw_only=True):
    """An option, or the lack of one, that changes a run in a way which the prediction does not follow."""

    option: str
    why: str


class IgnoredUse(Value, frozen=True, kw_only=True):
    """An option that has no effect on the prediction, and what it is about."""

    option: str
    group: str


class Settings(Value, frozen=True, kw_only=True):
    """Settings by name, defaults filled in; `given` are those that are written down.

    Asking for a setting that the framework's table lacks is an error of the program, so it raises `KeyError`.
    """

    framework: str
    where: str
    values: dict[str, SettingValue]
    given: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        """Whether it is given or has a default."""
        return self.values[name] is not None

    def integer(self, name: str, otherwise: int | None = None) -> int:
        """A whole number; an `InputError` where it is missing and nothing else is to be taken."""
        value = self.values[name]
        if value is None and otherwise is not None:
            return otherwise
        if not isinstance(value, int):
            raise InputError(self.where, self.written(name), "is missing")
        return value

    def number(self, name: str) -> float | None:
        """A number, or None where it is not given."""
        value = self.values[name]
        return None if value is None else float(value)  # type: ignore[arg-type]  # read as a number

    def text(self, name: str) -> str:
        """A word, empty where it is not given."""
        value = self.values[name]
        return "" if value is None else str(value)

    def words(self, name: str) -> tuple[str, ...]:
        """Several words."""
        value = self.values[name]
        return tuple(map(str, value)) if isinstance(value, tuple) else ()

    def on(self, name: str) -> bool:
        """Whether a switch is on."""
        return bool(self.values[name])

    def written(self, name: str) -> str:
        """How the framework writes a setting."""
        return option_of_setting(self.framework)[name].names[0]

    def changed(self, changes: dict[str, SettingValue]) -> Settings:
        """The settings with some replaced; None takes a setting back to its default."""
        defaults = default_values(self.framework)
        values = self.values | {name: defaults[name] if value is None else value for name, value in changes.items()}
        removed = {name for name, value in changes.items() if value is None}
        return msgspec.structs.replace(self, values=values, given=(self.given | set(changes)) - removed)


class Reading(Value, frozen=True, kw_only=True):
    """A configuration that was read. Every option is in exactly one of the tuples, or a setting.

    `num_gpus` is what the launcher says (None: nothing); `notes` is what could not be followed, with lines.
    """

    settings: Settings
    unknown: tuple[UnknownOption, ...]
    unmodelled: tuple[UnmodelledUse, ...]
    ignored: tuple[IgnoredUse, ...]
    num_gpus: int | None = None
    notes: tuple[str, ...] = ()


def default_values(framework: str) -> dict[str, SettingValue]:
    """Every setting at its default; switches are off, and those that are switched off are on."""
    return {option.setting: _default(option) for option in option_table(framework).mapped}


def _default(option: MappedOption) -> SettingValue:
    if option.reads is Reads.SWITCH:
        return bool(option.default)
    return True if option.reads is Reads.OFF else option.default


def sort_options(framework: str, where: str, options: Sequence[GivenOption]) -> Reading:
    """Settings, and the rest by what is known of it. Of an option that is given twice the last one counts."""
    known = known_options(framework)
    values: dict[str, SettingValue] = default_values(framework)
    given: set[str] = set()
    unknown, unmodelled, ignored = [], [], []
    for option in options:
        match known.get(option.name):
            case MappedOption() as mapped:
                values[mapped.setting] = read_value(where, option, mapped)
                given.add(mapped.setting)
            case UnmodelledOption(why=why, harmless=harmless):
                if not (option.values and set(option.values) <= set(harmless)):
                    unmodelled.append(UnmodelledUse(option=option.text, why=why))
                else:
                    ignored.append(IgnoredUse(option=option.text, group="at a value that changes nothing"))
            case IgnoredOption(group=group):
                ignored.append(IgnoredUse(option=option.text, group=group))
            case _:
                near = nearest_option(framework, option.name)
                unknown.append(UnknownOption(option=option.text, suggestion=near, line=option.line))
    return Reading(
        settings=Settings(framework=framework, where=where, values=values, given=frozenset(given)),
        unknown=tuple(unknown),
        unmodelled=tuple(unmodelled),
        ignored=tuple(ignored),
    )


def read_value(where: str, option: GivenOption, mapped: MappedOption) -> SettingValue:
    """The typed value of a mapped option; an `InputError` with the line where it is none."""
    if mapped.reads in (Reads.SWITCH, Reads.OFF):
        on = mapped.reads is Reads.SWITCH
        return on if not option.values else on == _switch(where, option)
    if mapped.reads is Reads.WORDS:
        return tuple(_resolved(where, option, word) for word in option.values)
    if mapped.reads is Reads.COUNTS:
        return tuple(_whole(where, option, word, least=1) for word in option.values)
    if len(option.values) != 1:
        raise InputError(_place(where, option), option.name, f"expected one value, found {len(option.values)}")
    return _single(where, option, mapped)


def _single(where: str, option: GivenOption, mapped: MappedOption) -> SettingValue:
    text = option.values[0]
    if mapped.reads is Reads.TEXT:
        text = text if not mapped.choices else _resolved(where, option, text)
        if mapped.choices and text not in mapped.choices:
            expected = ", ".join(mapped.choices)
            raise InputError(_place(where, option), option.name, f"{text!r} is unknown; expected one of {expected}")
        return text
    if mapped.reads is Reads.NUMBER:
        return _number(where, option, text)
    return _whole(where, option, text, least=1 if mapped.reads is Reads.COUNT else 0)


def _switch(where: str, option: GivenOption) -> bool:
    """The value of a switch that has one, as in YAML and TOML."""
    text = option.values[0].lower()
    if text not in ("true", "false"):
        raise InputError(_place(where, option), option.name, f"{option.values[0]!r} is neither true nor false")
    return text == "true"


def _whole(where: str, option: GivenOption, text: str, *, least: int) -> int:
    text = _resolved(where, option, text)
    try:
        value = int(text.replace("_", ""))
    except ValueError:
        value = least - 1
    if value < least:
        raise InputError(_place(where, option), option.name, f"{text!r} is not a whole number >= {least}")
    return value


def _number(where: str, option: GivenOption, text: str) -> float:
    try:
        value = float(_resolved(where, option, text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(_place(where, option), option.name, f"{text!r} is not a number")
    return value


def _resolved(where: str, option: GivenOption, text: str) -> str:
    """The text, which must hold no variable that nothing sets."""
    if "$" in text or "`" in text:
        problem = f"{text!r} could not be resolved; give its variable, as in --env NAME=VALUE, or the option with --add"
        raise InputError(_place(where, option), option.name, problem)
    return text


def _place(where: str, option: GivenOption) -> str:
    return f"{where}:{option.line}" if option.line else where
