"""Rows of a table that can be read and described: those that a fit can use."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.costmodel.errors import MeshwrightError
from meshwright.planner.validation.predictor import described
from meshwright.planner.validation.rows import RowText, TrainingRow, parse_row


def usable_rows(table: Sequence[RowText]) -> list[TrainingRow]:
    """The rows in order; the others are listed with their reason where the table is validated."""
    rows = []
    for text in table:
        try:
            row = parse_row(text)
            described(row)
        except MeshwrightError:
            continue
        rows.append(row)
    return rows
