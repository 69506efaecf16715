"""`meshwright validate --operators`: how well single operators and collectives are predicted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from meshwright.commands.output import print_json, print_table

if TYPE_CHECKING:
    from meshwright.planner.validation.operators import OperatorErrors

COLUMNS = ("operator", "samples", "median", "95 % below", "bias", "target")
PUBLISHED_COLUMNS = COLUMNS[:-1]


def show_operators(measurements: Path | None, base: str, *, as_json: bool) -> None:
    """Errors on the samples that no table was built from; without a file of one's own, published ones, too."""
    from meshwright.planner.validation.operators import (
        own_errors,
        published_figures,
        replayed_errors,
        shipped_errors,
        unused_rows,
    )

    measured = (own_errors(measurements, base),) if measurements else shipped_errors()
    published = () if measurements else replayed_errors(published_figures())
    unused = {} if measurements else unused_rows()
    if as_json:
        print_json({"measured": measured, "published": published, "unused": unused})
        return
    for one in measured:
        title = f"{one.machine}, {one.date[:10]}: predicted over measured time, shapes kept apart"
        print_table(title, COLUMNS, [(*_row(errors), _verdict(errors)) for errors in one.errors])
    if published:
        print_table(
            "Published micro-benchmarks, predicted by the shipped profile",
            PUBLISHED_COLUMNS,
            [_row(errors) for errors in published],
        )
        typer.echo(f"Not replayed: {len(unused)} rows (--json has the reasons)")


def _row(errors: OperatorErrors) -> tuple[str, ...]:
    return (
        errors.family,
        str(errors.samples),
        f"{errors.median_ape:.1%}",
        f"{errors.p95_ape:.1%}",
        f"{errors.bias:+.1%}",
    )


def _verdict(errors: OperatorErrors) -> str:
    if errors.target is None:
        return "-"
    limits = f"{errors.target.median_ape:.0%}, {errors.target.p95_ape:.0%}"
    return f"{limits}: {'kept' if errors.meets_target else 'missed'}"
