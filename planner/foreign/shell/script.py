"""Follows a launch script, without running anything: assignments, conditions that can be decided, commands.

What is not followed, because it depends on the machine (files, the output of programs, loops over arguments), is noted
with its line where it sets variables or holds options.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshwright.costmodel.value import Value
from meshwright.planner.foreign.shell.commands import RawCommand, RawWord, array_elements, split_commands
from meshwright.planner.foreign.shell.conditions import decide
from meshwright.planner.foreign.shell.expansion import Variables

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?=)", re.DOTALL)
DECLARATIONS = ("export", "local", "declare", "readonly", "typeset")
OPENING = {"if": "fi", "while": "done", "until": "done", "for": "done", "case": "esac"}
NOT_FOLLOWED = ("source", ".")
_SETS = re.compile(r"\w\+?=|--")


class Command(Value, frozen=True, kw_only=True):
    """A command with its words expanded, each with its line."""

    words: tuple[str, ...]
    lines: tuple[int, ...]


class Script(Value, frozen=True, kw_only=True):
    """What a script would run, as far as that is known: commands, variables at the end, and what was not followed."""

    commands: tuple[Command, ...]
    variables: dict[str, str]
    notes: tuple[str, ...]


def follow(where: str, text: str, environment: dict[str, str]) -> Script:
    """Follow a script from its first line to its last. `environment` are variables that are set before."""
    interpreter = _Interpreter(where, environment)
    interpreter.run(split_commands(where, text))
    values = interpreter.variables.values
    return Script(
        commands=tuple(interpreter.commands),
        variables={name: value for name, value in values.items() if isinstance(value, str)},
        notes=tuple(interpreter.notes),
    )


class _Interpreter:
    """The variables and what has been collected so far."""

    def __init__(self, where: str, environment: dict[str, str]) -> None:
        self.where = where
        self.variables = Variables(environment)
        self.commands: list[Command] = []
        self.notes: list[str] = []

    def run(self, commands: Sequence[RawCommand]) -> None:
        at = 0
        while at < len(commands):
            first = commands[at].words[0].text
            if first in OPENING:
                end = _closing(commands, at)
                if first == "if":
                    self._if(commands[at : end + 1])
                else:
                    self._skipped(commands[at : end + 1], f"the {first} loop" if first != "case" else "the case")
                at = end + 1
            else:
                self._simple(commands[at])
                at += 1

    def _skipped(self, commands: Sequence[RawCommand], what: str) -> None:
        """Note a piece of the script that is passed over, if it could matter."""
        if any(_SETS.search(word.text) for command in commands[1:] for word in command.words):
            self.notes.append(f"line {commands[0].line}: {what} is not followed")

    # Conditions.

    def _if(self, commands: Sequence[RawCommand]) -> None:
        for condition, body in _branches(commands):
            holds = True if condition is None else self._holds(condition)
            if holds is None:
                text = " ".join(word.text for command in condition or () for word in command.words)
                self._skipped(commands, f"`if {text}` cannot be decided here and")
                return
            if holds:
                self.run(body)
                return

    def _holds(self, condition: Sequence[RawCommand]) -> bool | None:
        """A list of tests joined by && and ||, from left to right."""
        result: bool | None = None
        joined_by = ""
        for command in condition:
            value = decide([word.text for word in command.words], self.variables)
            if joined_by == "&&":
                result = False if False in (result, value) else (None if None in (result, value) else True)
            elif joined_by == "||":
                result = True if True in (result, value) else (None if None in (result, value) else False)
            else:
                result = value
            joined_by = command.operator
        return result

    # Simple commands.

    def _simple(self, command: RawCommand) -> None:
        words = list(command.words)
        if words[0].text in DECLARATIONS:
            words = [word for word in words[1:] if _ASSIGNMENT.match(word.text)]
            if not words:
                return
        while words and (match := _ASSIGNMENT.match(words[0].text)):
            self._assign(match[1], match[2], words.pop(0), match.end())
        if not words:
            return
        if words[0].text in NOT_FOLLOWED:
            self.notes.append(f"line {command.line}: {' '.join(word.text for word in words)} is not followed")
            return
        texts: list[str] = []
        lines: list[int] = []
        for word in words:
            fields = self.variables.fields(word.text)
            texts += fields
            lines += [word.line] * len(fields)
        if texts:
            self.commands.append(Command(words=tuple(texts), lines=tuple(lines)))

    def _assign(self, name: str, sign: str, word: RawWord, start: int) -> None:
        values = self.variables.values
        if word.text[start : start + 1] == "(":
            elements = [part for raw in array_elements(self.where, word) for part in self.variables.fields(raw.text)]
            before = values.get(name, [])
            old = before if isinstance(before, list) else [before]
            values[name] = [*old, *elements] if sign == "+=" else elements
            return
        text = self.variables.joined(word.text[start:])
        values[name] = (self.variables.text(name) or "") + text if sign == "+=" else text


def _closing(commands: Sequence[RawCommand], at: int) -> int:
    """The command that closes the block which opens at `at`; the last one if none does."""
    depth = 0
    for index in range(at, len(commands)):
        words = [word.text for word in commands[index].words]
        heads = words[:2] if words[0] in ("then", "else", "do", "elif") else words[:1]
        depth += sum(word in OPENING for word in heads)
        depth -= words[0] in OPENING.values()
        if depth == 0:
            return index
    return len(commands) - 1


Branch = tuple[tuple[RawCommand, ...] | None, tuple[RawCommand, ...]]


def _branches(commands: Sequence[RawCommand]) -> list[Branch]:
    """The branches of an if: its condition (None: else) and its commands."""
    branches: list[Branch] = []
    condition: list[RawCommand] | None = []
    body: list[RawCommand] = []
    target: list[RawCommand] = body
    depth = 0
    for index, command in enumerate(commands):
        first, rest = command.words[0].text, command
        if depth == 0 and first in ("elif", "else", "fi") and index:
            branches.append((None if condition is None else tuple(condition), tuple(body)))
            condition, body = (None, []) if first == "else" else ([], [])
            target = body if condition is None else condition
            rest = _without_first(command)
        elif depth == 0 and (first == "then" or index == 0):
            target = body if first == "then" or condition is None else condition
            rest = _without_first(command)
        depth += _depth_change(rest)
        if rest.words:
            target.append(rest)
    return branches


def _without_first(command: RawCommand) -> RawCommand:
    return RawCommand(words=command.words[1:], operator=command.operator)


def _depth_change(command: RawCommand) -> int:
    first = command.words[0].text if command.words else ""
    return (first in OPENING) - (first in OPENING.values())
