"""`meshwright check`: whether a configuration written for another framework is legal, fits, and how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_json
from meshwright.commands.sections import print_sections

if TYPE_CHECKING:
    from meshwright.planner.foreign import CheckRequest, CheckResult, Source

INFEASIBLE_STATUS = 1
CONTEXT_SETTINGS = {"ignore_unknown_options": True}
"""The options of the other framework may stand as one quoted argument, which begins with an option."""

EXAMPLES = """\b
Examples:
  meshwright check --from megatron train.sh --cluster h100 --gpus 64
  meshwright check --from megatron train.sh --cluster h100 --env TP=4 --add "--recompute-granularity selective"
  meshwright check --from megatron "--num-layers 32 --hidden-size 4096 ..." --cluster h100 --gpus 8
  meshwright check --from torchtitan llama3_70b.toml --cluster h100 --gpus 256 --no-search
"""


def command(
    configuration: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_ARGUMENTS", help="Launch script, YAML or TOML file; or the options themselves, quoted."
        ),
    ],
    from_: Annotated[str, typer.Option("--from", metavar="megatron|torchtitan", help="What it is written for.")],
    cluster: Annotated[str, typer.Option(metavar="CLUSTER", help="Preset name, or path of a cluster YAML file.")],
    gpus: Annotated[int | None, typer.Option(metavar="N", help="GPUs in all; default: what the script says.")] = None,
    add: Annotated[
        list[str] | None, typer.Option(metavar="OPTIONS", help="More options of the framework, which come last.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable that the script may use. Repeatable.")
    ] = None,
    expert_imbalance: Annotated[
        float, typer.Option(metavar="X", help="Load of the busiest expert rank over the mean.")
    ] = 1.0,
    no_search: Annotated[bool, typer.Option("--no-search", help="Do not look for the best plan.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List the options that have no effect on the prediction.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the configuration as a plan (JSON).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Check a configuration written by hand: legal, fits in memory, how fast, how far from the best plan.

    All broken rules of the framework are listed, each with the nearest values that would do; so is every option that
    is unknown, or that matters and is not modelled. Then what each stage holds, where the time goes, the best plan that
    the framework can run, and which changes buy most. Nothing of the script is run.

    Exit status: 0 legal and fits; 1 a rule is broken or memory does not suffice; 2 the input cannot be read.
    """
    from meshwright.planner.foreign.describe import as_plan, describe_check
    from meshwright.planner.foreign.record import check_record
    from meshwright.planner.serialise import check_writable, write_plan

    request = _request(configuration, from_, cluster, gpus, add, env, expert_imbalance, search=not no_search)
    if output is not None:
        check_writable(output)
    result = _check(request)
    if output is not None and result.configuration is not None:
        write_plan(as_plan(result.configuration), output)
    if as_json:
        print_json(check_record(result))
    else:
        print_sections(describe_check(result, verbose=verbose))
        if output is not None and result.configuration is not None:
            typer.echo(f"plan written to {output}")
    if not (result.legal and result.fits):
        raise typer.Exit(INFEASIBLE_STATUS)


def _request(
    configuration: str,
    framework: str,
    cluster: str,
    gpus: int | None,
    add: list[str] | None,
    env: list[str] | None,
    expert_imbalance: float,
    *,
    search: bool,
) -> CheckRequest:
    """What the options ask for."""
    from meshwright.planner.foreign import CheckRequest

    source = _source(configuration, " ".join(add or ()), _environment(env or []))
    return CheckRequest(
        framework=framework,
        source=source,
        cluster=cluster,
        num_gpus=gpus,
        expert_imbalance=expert_imbalance,
        search=search,
    )


def _source(text: str, added: str, environment: dict[str, str]) -> Source:
    """A file's text, or the options as they are typed."""
    from meshwright.costmodel.errors import InputError
    from meshwright.planner.foreign import Source

    if text.lstrip().startswith("-"):
        return Source(where="arguments", text=text, added=added, environment=environment)
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as problem:
        raise InputError(text, "", f"cannot be read, and does not begin with an option: {problem}") from problem
    return Source(where=text, text=content, suffix=path.suffix or ".sh", added=added, environment=environment)


def _environment(pairs: list[str]) -> dict[str, str]:
    from meshwright.costmodel.errors import InputError

    variables = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise InputError("--env", pair, "expected NAME=VALUE, for example TP=8")
        variables[name] = value
    return variables


def _check(request: CheckRequest) -> CheckResult:
    """Check; on a terminal, with a line on stderr that tells how far the search has come."""
    from rich.console import Console

    from meshwright.commands.plan import progress_text
    from meshwright.planner.foreign import check

    console = Console(stderr=True)
    if not console.is_terminal:
        return check(request)
    with console.status("checking") as status:
        return check(request, progress=lambda progress: status.update(progress_text(progress)))
