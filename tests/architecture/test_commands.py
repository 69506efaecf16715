"""The command line is a promise: its commands and flags change only on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.core import TyperArgument, TyperCommand

from meshwright.cli import COMMANDS, load_command


def _describe(name: str, command: TyperCommand) -> str:
    lines = []
    for parameter in command.params:
        words = "/".join([*parameter.opts, *parameter.secondary_opts])
        kind = "argument" if isinstance(parameter, TyperArgument) else "option"
        lines.append(f"  {kind} {words}{' required' if parameter.required else ''}")
    return "\n".join([name, *sorted(lines)]) + "\n"


def test_commands_and_flags_are_frozen(check_golden: Callable[[str, str], None]) -> None:
    check_golden("commands.txt", "\n".join(_describe(name, load_command(name)) for name in COMMANDS))


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_and_option_has_help(name: str) -> None:
    command = load_command(name)
    assert command.help
    assert command.help.splitlines()[0].endswith(".")
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help text"
