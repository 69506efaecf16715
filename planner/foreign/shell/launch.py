"""Finds the training command of a script: its options, and how many GPUs its launcher starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.foreign.settings import GivenOption
from meshwright.planner.foreign.shell.script import Command, follow

NODES = ("--nnodes", "--nodes", "-N")
PER_NODE = ("--nproc_per_node", "--nproc-per-node", "--ntasks-per-node", "--gpus-per-node", "--gres")
_SBATCH = re.compile(r"^#SBATCH[ \t]+(\S+)(?:[ \t]+(\S+))?", re.MULTILINE)
_LAST_NUMBER = re.compile(r"(\d+)\D*$")
_OPTION = re.compile(r"--?[A-Za-z]")


class Launch(Value, frozen=True, kw_only=True):
    """Options of the training program, GPUs that the launcher starts (None: not said), what was passed over."""

    options: tuple[GivenOption, ...]
    num_gpus: int | None
    notes: tuple[str, ...]


def find_launch(where: str, text: str, environment: dict[str, str], known: frozenset[str]) -> Launch:
    """The command of a script that has most options of the framework (`known`); an `InputError` if none has any."""
    script = follow(where, text, environment)
    candidates = list(_candidates(script.commands, script.variables))
    best = max(candidates, key=lambda command: _num_known(command, known), default=None)
    if best is None or not _num_known(best, known):
        raise InputError(where, "", "holds no training command: none has an option of the framework")
    start = _program_end(best.words)
    return Launch(
        options=tuple(_located(option, text) for option in split_options(best.words[start:], best.lines[start:])),
        num_gpus=_num_gpus(best.words[:start], text),
        notes=script.notes,
    )


def split_options(words: Sequence[str], lines: Sequence[int] = ()) -> tuple[GivenOption, ...]:
    """Words as options with their values; `--name=value` as well. What stands before the first option is left out."""
    options: list[GivenOption] = []
    for index, word in enumerate(words):
        line = lines[index] if lines else 0
        if _OPTION.match(word):
            name, separator, value = word.partition("=")
            name, *rest = name.split()  # an array element may hold an option with its value
            values = (*rest, value) if separator else tuple(rest)
            options.append(GivenOption(name=name, values=values, line=line))
        elif options:
            last = options[-1]
            options[-1] = GivenOption(name=last.name, values=(*last.values, word), line=last.line)
    return tuple(options)


def _located(option: GivenOption, text: str) -> GivenOption:
    """The option with the line that it is written on, rather than that of the command which uses it."""
    found = re.search(rf"(?<![\w-]){re.escape(option.name)}(?![\w-])", text)
    return msgspec.structs.replace(option, line=text.count("\n", 0, found.start()) + 1) if found else option


def _candidates(commands: Sequence[Command], variables: dict[str, str]) -> Iterator[Command]:
    """Every command, and those that stand as text in a variable or in an argument of another command."""
    for command in commands:
        yield command
        for word, line in zip(command.words, command.lines, strict=True):
            if " --" in word:
                yield _parsed(word, line)
    for text in variables.values():
        if " --" in text:
            yield _parsed(text, 0)


def _parsed(text: str, line: int) -> Command:
    words = tuple(text.replace(";", " ; ").split())
    return Command(words=words, lines=(line,) * len(words))


def _num_known(command: Command, known: frozenset[str]) -> int:
    names = (word.partition("=")[0].split() for word in command.words)
    return len(known.intersection(name[0] for name in names if name))


def _program_end(words: Sequence[str]) -> int:
    """Behind the last word that names a Python program: what comes before belongs to the launcher."""
    ends = [index for index, word in enumerate(words) if word.endswith(".py")]
    ends += [
        index + 1 for index, word in enumerate(words[:-1]) if word == "-m" and "distributed" not in words[index + 1]
    ]
    return ends[-1] + 1 if ends else 0


def _num_gpus(launcher: Sequence[str], text: str) -> int | None:
    """Nodes times processes a node: of the launcher, else of the #SBATCH lines."""
    given = {option.name: option.values[0] for option in split_options(launcher) if option.values}
    for name, value in _SBATCH.findall(text):
        key, _, inline = name.partition("=")
        given.setdefault(key, inline or value)
    counts = [_count(given, names) for names in (NODES, PER_NODE)]
    if counts[1] is None:
        return None
    return prod(count or 1 for count in counts)


def _count(given: dict[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        match = _LAST_NUMBER.search(given.get(name, ""))
        if match and "$" not in given[name]:
            return int(match[1])
    return None
