"""Prints a report of sections: text wrapped to a readable width, tables whose figures are never cut."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from meshwright.commands.output import print_table

if TYPE_CHECKING:
    from meshwright.planner.describe import Section

WIDTH_COLUMNS = 112
INDENT = "  "


def print_sections(sections: Iterable[Section]) -> None:
    """Print sections one after the other. No colour, no control codes: what is piped reads the same."""
    for section in sections:
        if section.rows:
            print_table(section.title, section.columns, section.rows)
            lines = section.notes
        else:
            typer.echo(section.title + "\n")
            lines = (*section.lines, *section.notes)
        for line in lines:
            typer.echo(_wrapped(line))
        if lines:
            typer.echo("")


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH_COLUMNS, initial_indent=INDENT, subsequent_indent=INDENT * 2)
