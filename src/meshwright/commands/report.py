"""`meshwright report`: a plan as one page of HTML that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
Examples:
  meshwright report plan.json -o report.html
"""


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that `meshwright plan -o` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Write the page (HTML) there.")],
) -> None:
    """Write a plan as one self-contained page.

    The plan in words, its pipeline and one layer's streams as charts that can be zoomed, where time and memory go, the
    runners-up, what more of each resource would buy, what was proven, and the sources of it all. The page needs no
    network and can be printed. Figures are those of the plan, exactly; charts and what-ifs are simulated from it.
    """
    from meshwright.costmodel.errors import InputError
    from meshwright.planner.report import write_report
    from meshwright.planner.serialise import check_writable, read_plan

    planned = read_plan(plan)
    if output.resolve() == plan.resolve():
        raise InputError(str(output), "", "is the plan itself; expected another file for the page")
    check_writable(output)
    write_report(planned, output)
    typer.echo(f"report written to {output}")
