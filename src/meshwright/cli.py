"""The command line: which commands there are, and what becomes of their errors. Each command is a module of its own.

`COMMANDS` is the whole register. A command's module is imported when that command runs, so `meshwright --help` stays
fast; it has a function `command`, whose annotated parameters are the options and whose docstring is the help.

Exit status: 0 done, 1 no plan fits, 2 bad input (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer._click.exceptions import ClickException  # typer has no public base of its usage errors
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from meshwright import __version__
from meshwright.costmodel.errors import InputError, MeshwrightError

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130

EXAMPLES = """\b
Examples:
  meshwright plan internal-352b --cluster h800 --gpus 1440 --global-batch 720 --seq-len 8192 -o plan.json
  meshwright simulate plan.json
  meshwright models
  meshwright clusters --json
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEntry:
    """Where a command's function `command` lives, and its line in `meshwright --help`."""

    module: str
    summary: str


COMMANDS: dict[str, CommandEntry] = {
    "plan": CommandEntry(module="meshwright.commands.plan", summary="Find the fastest plan that fits."),
    "simulate": CommandEntry(
        module="meshwright.commands.simulate", summary="Predict a plan's step again, with changes."
    ),
    "codesign": CommandEntry(
        module="meshwright.commands.codesign", summary="Find which shape of a model suits the machine."
    ),
    "report": CommandEntry(module="meshwright.commands.report", summary="Write a plan as one page of HTML."),
    "check": CommandEntry(
        module="meshwright.commands.check", summary="Check a configuration written for Megatron-LM or torchtitan."
    ),
    "export": CommandEntry(module="meshwright.commands.export", summary="Write a plan for Megatron-LM or torchtitan."),
    "explain": CommandEntry(
        module="meshwright.commands.explain", summary="Show where a plan's figures come from and why not otherwise."
    ),
    "validate": CommandEntry(
        module="meshwright.commands.validate", summary="Compare predictions with published training runs."
    ),
    "profile": CommandEntry(module="meshwright.commands.profile", summary="Measure this machine's GPUs and links."),
    "tokenize": CommandEntry(
        module="meshwright.commands.tokenize", summary="Turn text files into the token file of a run."
    ),
    "kernels": CommandEntry(module="meshwright.commands.kernels", summary="List or build the custom CUDA kernels."),
    "run": CommandEntry(module="meshwright.commands.run", summary="Train the planned model the planned way."),
    "models": CommandEntry(module="meshwright.commands.models", summary="List the model presets."),
    "clusters": CommandEntry(module="meshwright.commands.clusters", summary="List the cluster presets."),
}


class LazyGroup(TyperGroup):
    """The commands of `COMMANDS`: listed without importing them, imported when one of them is run."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002  the signature is Typer's
        """All command names, in the register's order."""
        return list(COMMANDS)

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | None:  # noqa: ARG002
        """What the list of commands shows: name and summary, nothing that runs."""
        entry = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=entry.summary) if entry else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401  Typer's
        """The real command: its module is imported here."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest


def load_command(name: str) -> TyperCommand:
    """Import the module of a registered command and build the command from its function.

    The module may have `EXAMPLES`, which end its help, and `CONTEXT_SETTINGS` of the parser.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    module = import_module(COMMANDS[name].module)
    settings, examples = getattr(module, "CONTEXT_SETTINGS", None), getattr(module, "EXAMPLES", None)
    app.command(name, context_settings=settings, epilog=examples)(module.command)
    command = get_command(app)
    assert isinstance(command, TyperCommand)  # one function, no callback: a plain command
    return command


def build_group() -> LazyGroup:
    """The top of the command line."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.callback(cls=LazyGroup, invoke_without_command=True, epilog=EXAMPLES)(top)
    group = get_command(app)
    assert isinstance(group, LazyGroup)  # the class named in the callback
    return group


def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Plan and simulate the parallel training of large dense and mixture-of-experts transformers."""
    if version:
        typer.echo(f"meshwright {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status. The one place where errors become messages."""
    try:
        status = build_group().main(args=list(arguments), prog_name="meshwright", standalone_mode=False)
    except ClickException as error:
        return _fail(f"error: {_one_line(error.format_message())}", USAGE_STATUS)
    except InputError as error:
        return _fail(f"error: {_one_line(str(error))}", error.exit_status)
    except MeshwrightError as error:
        return _fail(str(error), error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED_STATUS)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    typer.echo(f"meshwright: {message}", file=sys.stderr)
    return status


def _one_line(text: str) -> str:
    return " ".join(text.split())
