"""`meshwright simulate`: a plan's step predicted again, with other circumstances, or with many of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshwright.commands.output import print_json
from meshwright.commands.sections import print_sections

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from meshwright.planner.plan import Plan
    from meshwright.planner.sweep import SweepResult

INTERRUPTED_STATUS, FAILED_STATUS = 130, 1

EXAMPLES = """\b
Examples:
  meshwright simulate plan.json
  meshwright simulate plan.json --set network_bytes_per_s='800 Gbit/s' --set seq_len=16384
  meshwright simulate plan.json --set mesh.ep=8 --set layers.dispatch=allgather --trace step.json
  meshwright simulate plan.json --sweep network_bytes_per_s='100..800:100 Gbit/s' --plot network.png
  meshwright simulate plan.json --sweep num_experts=32,64,128 --sweep top_k=1,2,4,8 --csv experts.csv
  meshwright simulate plan.json --sweep gpu=h100,h200,h20 --replan
"""


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that `meshwright plan -o` wrote.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a field of cluster, model, workload, mesh, pipeline, layers or runtime:"
            " network_bytes_per_s='800 Gbit/s', nvlink_bytes_per_s=2x, gpu=h200, seq_len=16384, mesh.ep=8."
            " Repeat it for more. docs/what_ifs.md lists the keys.",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="Evaluate every value; also START..STOP:STEP with a unit. Repeat it for a grid.",
        ),
    ] = None,
    replan: Annotated[
        bool, typer.Option("--replan", help="Find the best plan at every point (or at the one of --set).")
    ] = False,
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help="With --replan: pin choices, as `meshwright plan --fix` does."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes of a sweep; default: one for each core.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Sweep over more than 10,000 points.")] = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the points of a sweep as CSV, in SI units.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the sweep: a curve, bars, a heat map, or a Pareto front."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What --plot shows: step_time, tokens_per_s, mfu, peak_memory, cost, days, effective. Two of them: one"
            " against the other, with the Pareto front.",
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the step as a trace for ui.perfetto.dev.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Predict the step of a plan again, and what changes would do to it.

    The plan's choices stay as they are unless --set changes them: this is no search, but for --replan. A change after
    which a stage needs more memory than there is gets its answer too: the report says which stage and by how much, JSON
    has "fits": false. In a sweep, values that contradict the plan are rows with their reason. Ctrl-C keeps the points
    that are finished.
    """
    from meshwright.planner.serialise import read_plan

    settings = tuple(set_ or ())
    _check_options(sweep, {"--workers": workers, "--plot": plot})
    _check_options(sweep or replan, {"--fix": fix, "--csv": csv}, "--sweep or --replan")
    _check_options(plot is not None, {"--metric": metric}, "--plot")
    planned = read_plan(plan)
    if not sweep and not replan:
        _one(planned, settings, trace, as_json=as_json)
        return
    _check_options(not sweep and not replan, {"--trace": trace}, "no --sweep and no --replan: a trace is of one plan")
    options = {"replan": replan, "fixes": tuple(fix or ()), "workers": workers, "force": force}
    _many(planned, settings, tuple(sweep or ()), options, (csv, plot, tuple(metric or ())), as_json=as_json)


def _check_options(given: object, options: dict[str, object], needed: str = "--sweep") -> None:
    from meshwright.costmodel.errors import InputError

    for name, value in options.items():
        if value and not given:
            raise InputError(name, "", f"needs {needed}")


def _one(plan: Plan, settings: tuple[str, ...], trace: Path | None, *, as_json: bool) -> None:
    from meshwright.planner.changes import parse_changes
    from meshwright.planner.describe.comparison import describe_what_if
    from meshwright.planner.serialise import check_writable
    from meshwright.planner.what_if import answer, baseline_of, changed, with_outlook

    if trace is not None:
        check_writable(trace)
    baseline = baseline_of(plan)
    change = changed(baseline, parse_changes(settings))
    result = with_outlook(answer(baseline, change), change)
    if trace is not None:
        from meshwright.planner.trace import write_trace

        write_trace(change.configuration, trace)
    if as_json:
        print_json(result)
        return
    print_sections(describe_what_if(plan, result))
    if trace is not None:
        typer.echo(f"trace written to {trace}")


def _many(
    plan: Plan,
    settings: tuple[str, ...],
    sweeps: tuple[str, ...],
    options: dict[str, Any],
    outputs: tuple[Path | None, Path | None, tuple[str, ...]],
    *,
    as_json: bool,
) -> None:
    from meshwright.planner.changes import parse_changes
    from meshwright.planner.serialise import check_writable, write_whole
    from meshwright.planner.sweep import sweep_grid
    from meshwright.planner.sweep.axes import parse_axes, single_point
    from meshwright.planner.sweep.describe import describe_sweep
    from meshwright.planner.sweep.metrics import chosen_metrics
    from meshwright.planner.sweep.plot import sweep_png

    csv, plot, metrics = outputs
    for path in filter(None, (csv, plot)):
        check_writable(path)
    _check_picture(plot)
    chosen_metrics(metrics)
    changes = parse_changes(settings)
    grid, everywhere = (parse_axes(sweeps), changes) if sweeps else (single_point(changes), {})
    with _progress_bar() as progress:
        result = sweep_grid(plan, grid, everywhere, progress=progress, **options)
    if csv is not None:
        write_whole(result.to_csv(), csv)
    if plot is not None:
        write_whole(sweep_png(result, metrics), plot)
    if as_json:
        print_json(result)
    else:
        print_sections(describe_sweep(result))
    _end(result)


def _check_picture(plot: Path | None) -> None:
    from meshwright.costmodel.errors import InputError

    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError("--plot", str(plot), "is no PNG file; expected a name that ends in .png")


def _end(result: SweepResult) -> None:
    """The exit status of a sweep that was not finished, said on stderr as well."""
    from meshwright.planner.sweep.run import INTERRUPTED

    if result.complete:
        return
    typer.echo(f"meshwright: {result.stopped}: {len(result.rows):,} of {result.num_points:,} points", err=True)
    raise typer.Exit(INTERRUPTED_STATUS if result.stopped == INTERRUPTED else FAILED_STATUS)


def _progress_bar() -> AbstractContextManager[Callable[[int, int], None] | None]:
    """On a terminal, a bar on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return nullcontext(None)
    from meshwright.commands.progress import point_bar

    return point_bar(console)
