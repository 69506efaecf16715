"""What every command prints with: one JSON object, or tables in which no figure is ever cut."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

UNLIMITED_WIDTH_COLUMNS = 10_000
_FIGURE = re.compile(r"[+-]?\d|-?$")


def print_json(value: object) -> None:
    """Print one JSON object, indented, and nothing else."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under a title, each row on one line whatever the width of the terminal."""
    from rich.console import Console

    console = Console(
        width=UNLIMITED_WIDTH_COLUMNS, highlight=False, force_jupyter=False, force_terminal=_is_terminal()
    )
    with console.capture() as capture:
        console.print(build_table(columns, rows))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    typer.echo("\n".join([title, "", *filter(None, lines), ""]))


def _is_terminal() -> bool:
    """Whether this prints to a terminal; a notebook passes for one."""
    own = sys.__stdout__
    return own is not None and sys.stdout is own and own.isatty()


def build_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table. Each word of a heading stands on its own line.

    A column of figures is aligned to the right: all its cells start with a digit (or a sign and a digit), or are "-" or
    empty.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        is_numeric = all(_FIGURE.match(row[index]) for row in rows) and any(row[index] for row in rows)
        heading = Text(column.replace(" ", "\n"))
        table.add_column(heading, justify="right" if is_numeric else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
