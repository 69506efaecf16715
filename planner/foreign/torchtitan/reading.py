"""Reads a torchtitan configuration: a TOML file, options of its command line on top."""

from __future__ import annotations

import re
import tomllib

from meshwright.costmodel.errors import InputError
from meshwright.planner.foreign.framework import Source
from meshwright.planner.foreign.option_table import known_options
from meshwright.planner.foreign.settings import GivenOption, Reading, sort_options
from meshwright.planner.foreign.shell.commands import split_commands
from meshwright.planner.foreign.shell.expansion import Variables
from meshwright.planner.foreign.shell.launch import split_options

NAME = "torchtitan"


def read(source: Source) -> Reading:
    """The options with what became of each; an `InputError` where the source is no TOML or a value is none."""
    if source.suffix == ".py":
        problem = (
            "is a configuration in Python, which is not run here; give the TOML, or options as --section.name VALUE"
        )
        raise InputError(source.where, "", problem)
    typed = not source.suffix and source.text.lstrip().startswith("--")
    options = _typed(source.where, source.text) if typed else _toml_options(source)
    reading = sort_options(NAME, source.where, (*options, *_typed(source.where, source.added)))
    if not reading.settings.given:
        raise InputError(source.where, "", "has no option of torchtitan")
    return reading


def _toml_options(source: Source) -> tuple[GivenOption, ...]:
    try:
        content = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as problem:
        raise InputError(source.where, "", f"is no TOML: {problem}") from problem
    lines = source.text.splitlines()
    return tuple(_leaves(content, "", lines))


def _leaves(table: dict[str, object], prefix: str, lines: list[str]) -> list[GivenOption]:
    options = []
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            options += _leaves(value, f"{name}.", lines)
        else:
            options.append(GivenOption(name=name, values=_texts(value), line=_line(name, lines)))
    return options


def _texts(value: object) -> tuple[str, ...]:
    """A value as words; of a list of lists each inner one is a word."""
    if isinstance(value, list):
        return tuple(" ".join(map(str, item)) if isinstance(item, list) else str(item) for item in value)
    return (str(value).lower() if isinstance(value, bool) else str(value),)


def _line(name: str, lines: list[str]) -> int:
    """The line that a key stands on, in its section; 0 where it is written in another way."""
    section, _, key = name.rpartition(".")
    inside = not section
    for number, line in enumerate(lines, start=1):
        header = re.match(r"\s*\[([^\]]+)\]", line)
        if header:
            inside = header[1].strip() == section
        elif inside and re.match(rf"\s*{re.escape(key)}\s*=", line):
            return number
    return 0


def _typed(where: str, text: str) -> tuple[GivenOption, ...]:
    """Options as torchtitan's command line takes them: --section.name VALUE, with --section.no_name for false."""
    commands = split_commands(where, text.replace("\n", " "))
    words = tuple(f for command in commands for word in command.words for f in Variables({}).fields(word.text))
    return tuple(_named(option) for option in split_options(words))


def _named(option: GivenOption) -> GivenOption:
    name = option.name.removeprefix("--").replace("-", "_")
    section, _, key = name.rpartition(".")
    positive = f"{section}.{key.removeprefix('no_')}"
    if name not in known_options(NAME) and key.startswith("no_") and positive in known_options(NAME):
        return GivenOption(name=positive, values=("false",))
    values = tuple(part for value in option.values for part in value.split(",") if part)
    return GivenOption(name=name, values=values)
