"""Every option that a framework has, as data: what it means here, that it changes nothing, or is not modelled.

One JSON file a framework in `data/`. `mapped` options become settings (with the value of the plan they stand for where
that is one value: read backwards it writes the option); `unmodelled` ones change a run in a way that no prediction here
follows; `no_effect` ones do not change what a step takes.
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value

NEAR = 0.75
ANY_NUMBER = ("*", "+")


class Reads(StrEnum):
    """How an option's value is read: numbers (count: 1 and up), words, a switch that sets, a switch that unsets."""

    COUNT = "count"
    COUNTS = "counts"
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    WORDS = "words"
    SWITCH = "switch"
    OFF = "off"


class MappedOption(Value, frozen=True, kw_only=True):
    """An option that is followed. `setting` is its name here; `meaning` the field of a plan that it states alone."""

    names: tuple[str, ...]
    setting: str
    reads: Reads
    default: int | float | str | None = None
    meaning: str = ""
    choices: tuple[str, ...] = ()

    @property
    def arity(self) -> str:
        """How many values follow it, as argparse writes it: 0, 1, or + for several."""
        if self.reads in (Reads.SWITCH, Reads.OFF):
            return "0"
        return "*" if self.reads in (Reads.WORDS, Reads.COUNTS) else "1"


class UnmodelledOption(Value, frozen=True, kw_only=True):
    """An option that matters and is not followed. `why`: what it does. `harmless`: values that change nothing."""

    names: tuple[str, ...]
    why: str
    arity: str = "1"
    harmless: tuple[str, ...] = ()


class IgnoredOption(Value, frozen=True, kw_only=True):
    """An option that does not change what a step takes. `group` is what it is about."""

    group: str
    arity: str


KnownOption: TypeAlias = MappedOption | UnmodelledOption | IgnoredOption


class OptionTable(Value, frozen=True, kw_only=True):
    """A framework's options. `no_effect`: group, number of values, names. `source`: the version that was read."""

    source: str
    mapped: tuple[MappedOption, ...]
    unmodelled: tuple[UnmodelledOption, ...]
    no_effect: dict[str, dict[str, tuple[str, ...]]]

    def __post_init__(self) -> None:
        names = [name for mapped in self.mapped for name in mapped.names]
        names += [name for unmodelled in self.unmodelled for name in unmodelled.names]
        names += [name for by_arity in self.no_effect.values() for group in by_arity.values() for name in group]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else ()
        if twice:
            raise InputError("option table", twice[0], "stands there twice")


@lru_cache(maxsize=4)
def option_table(framework: str) -> OptionTable:
    """The packaged table of a framework."""
    path = Path(__file__).parent / "data" / f"{framework}.json"
    return msgspec.json.decode(path.read_bytes(), type=OptionTable)


@lru_cache(maxsize=4)
def known_options(framework: str) -> MappingProxyType[str, KnownOption]:
    """Every name of the table, with what is known of it."""
    table = option_table(framework)
    known: dict[str, KnownOption] = {}
    known |= {name: option for option in table.mapped for name in option.names}
    known |= {name: option for option in table.unmodelled for name in option.names}
    for group, by_arity in table.no_effect.items():
        for arity, names in by_arity.items():
            known.update(dict.fromkeys(names, IgnoredOption(group=group, arity=arity)))
    return MappingProxyType(known)


@lru_cache(maxsize=4)
def option_of_setting(framework: str) -> MappingProxyType[str, MappedOption]:
    """The mapped options by the name of their setting."""
    return MappingProxyType({option.setting: option for option in option_table(framework).mapped})


def nearest_option(framework: str, name: str) -> str:
    """The known name that an unknown one most looks like, or nothing."""
    near = get_close_matches(name, known_options(framework), n=1, cutoff=NEAR)
    return near[0] if near else ""
