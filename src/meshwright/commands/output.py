"""What every command prints with: one JSON object, or tables that stay whole when piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

PIPED_WIDTH_COLUMNS = 1000


def print_json(value: object) -> None:
    """Print one JSON object, indented, and nothing else."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under a title, as wide as the terminal; piped, as wide as the rows."""
    from rich.console import Console

    table = build_table(title, columns, rows)
    width = None if sys.stdout.isatty() else PIPED_WIDTH_COLUMNS
    Console(width=width, highlight=False, markup=False).print(table)


def build_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table. A column whose cells all start with a digit, or are "-", is aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        is_numeric = all(row[index][:1].isdigit() or row[index] == "-" for row in rows)
        table.add_column(Text(column), justify="right" if is_numeric else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
