"""`meshwright export`: a plan as the configuration of another framework."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_json

if TYPE_CHECKING:
    from meshwright.planner.foreign.export import Export

EXAMPLES = """\b
Examples:
  meshwright export plan.json --to megatron -o train.sh
  meshwright export plan.json --to torchtitan -o train.toml
  meshwright export plan.json --to megatron --json
  meshwright check --from megatron train.sh --cluster h100 --no-search
"""


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that `meshwright plan -o` wrote.")],
    to: Annotated[str, typer.Option("--to", metavar="megatron|torchtitan", help="What it is written for.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there; default: stdout.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: the text, what differs, the predictions.")
    ] = False,
) -> None:
    """Write a plan as a launch script of Megatron-LM or as a TOML file of torchtitan.

    What the framework would do otherwise stands as comments in the file and on stderr, with the step time predicted for
    it. What it cannot do is refused: one line a reason, and the `plan` command whose plan it can run.

    Exit status: 0 exported; 1 the framework cannot run the plan; 2 the input cannot be read.
    """
    from meshwright.costmodel.errors import InputError
    from meshwright.planner.foreign.export import export
    from meshwright.planner.serialise import check_writable, read_plan, write_whole

    planned = read_plan(plan)
    if output is not None and output.resolve() == plan.resolve():
        raise InputError(str(output), "", "is the plan itself; expected another file")
    if output is not None:
        check_writable(output)
    exported = export(planned, to)
    if output is not None:
        write_whole(exported.text.encode(), output)
    if as_json:
        print_json(exported)
    elif output is None:
        typer.echo(exported.text, nl=False)
    else:
        typer.echo(f"exported to {output}")
    _print_notes(exported)


def _print_notes(exported: Export) -> None:
    """What a reader of the file alone might miss, on stderr."""
    for line in exported.differences:
        typer.echo(f"differs: {line}", err=True)
    for line in exported.unmodelled:
        typer.echo(f"not in the prediction: {line}", err=True)
    typer.echo(exported.comparison, err=True)
