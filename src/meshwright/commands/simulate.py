"""`meshwright simulate`: a plan's step predicted again, with other circumstances."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshwright.commands.output import print_json
from meshwright.commands.sections import print_sections


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that `meshwright plan -o` wrote.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a field of cluster, workload or plan: network_bytes_per_s='800 Gbit/s', nvlink_bytes_per_s=2x,"
            " gpu=h200, seq_len=16384. Repeat it for more. An unknown key lists them all.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Predict the step of a plan again, and what changes would do to it.

    The plan's choices stay as they are unless --set changes them: this is no search. A change after which a stage needs
    more memory than there is gets its answer too: the report says which stage and by how much, JSON has "fits": false.
    """
    from meshwright.planner.describe.comparison import describe_what_if
    from meshwright.planner.serialise import read_plan
    from meshwright.planner.what_if import what_if

    planned = read_plan(plan)
    result = what_if(planned, tuple(set_ or ()))
    if as_json:
        print_json(result)
    else:
        print_sections(describe_what_if(planned, result))
