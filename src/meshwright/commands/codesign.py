"""`meshwright codesign`: which shape of a model suits the machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_json
from meshwright.commands.plan import FIX_KEYS, problem_of
from meshwright.commands.sections import print_sections

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from meshwright.planner.codesign import CodesignStudy

INTERRUPTED_STATUS, FAILED_STATUS = 130, 1
HOLDS = "parameters|active-parameters|flops"

EXAMPLES = """\b
Examples:
  meshwright codesign internal-352b --cluster h800 --gpus 480 --global-batch 360 --seq-len 8192 \\
    --hold parameters --vary experts=16,32,64 --vary layers=48,60,72 --plot shapes.png --csv shapes.csv
  meshwright codesign qwen3-30b-a3b --cluster h100 --gpus 64 --global-batch 512 --seq-len 4096 \\
    --hold active-parameters --vary experts=64,128,256 --vary top-k=4,8,16
  meshwright codesign llama-3.1-8b --cluster h100 --global-batch 64 --seq-len 8192 \\
    --hold flops --vary layers=24,32,40 --vary hidden=3072,4096,5120 --tokens 15e12
"""


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base: preset name, or path of a config.json.")],
    cluster: Annotated[str, typer.Option(metavar="CLUSTER", help="Preset name, or path of a cluster YAML file.")],
    global_batch: Annotated[int, typer.Option(metavar="SEQS", help="Sequences a step, over all replicas.")],
    seq_len: Annotated[int, typer.Option(metavar="S", help="Tokens of a sequence.")],
    hold: Annotated[str, typer.Option(metavar=HOLDS, help="What every shape has as much of as the base.")],
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="SIZE=V1,V2,...",
            help="Sizes to combine: layers hidden heads kv-heads head-size ffn-size experts top-k expert-size"
            " shared-experts. A value may be a factor, as in 2x. Repeat it for a grid.",
        ),
    ],
    adjust: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="The size that keeps the budget: expert-size (default; dense models: ffn-size), layers or experts.",
        ),
    ] = "",
    multiple: Annotated[
        int | None,
        typer.Option(
            metavar="M", help="Round that size to multiples of M; default: 128 for widths, 8 for experts, 1 for layers."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="X", help="Largest deviation from the budget, as a share of it.")
    ] = 0.02,
    capacity: Annotated[
        str,
        typer.Option(
            metavar=HOLDS,
            help="What the Pareto front wants much of, against step time; default: parameters, or active-parameters"
            " where parameters are held.",
        ),
    ] = "",
    tokens: Annotated[float, typer.Option(metavar="T", help="Tokens to train on, for the days that takes.")] = 1e12,
    gpus: Annotated[int | None, typer.Option(metavar="N", help="GPUs in all; default: the file's, or a node.")] = None,
    precision: Annotated[str, typer.Option(metavar="bf16|fp8", help="Number format of the matrix products.")] = "bf16",
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help=f"Pin choices of all plans, as in tp=8,pp=16. Keys: {FIX_KEYS}."),
    ] = None,
    runtime: Annotated[
        str, typer.Option(metavar="NAME", help="What executes the plans: meshwright, megascale-moe, megatron, ...")
    ] = "meshwright",
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that search at once; default: one a processor.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Search however many shapes there are.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the table there.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw them there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Find which shape of a model suits the machine: many shapes at one budget, each with its best plan.

    Sizes that are varied are combined; one more size is solved so that each shape has as many parameters, active
    parameters or FLOPs a token as the base model. The table and the plot mark the Pareto front: no other shape is at
    least as large and as fast. When the hidden size changes, heads keep their size and their number follows.
    Ctrl-C keeps what is done (exit status 130).
    """
    from meshwright.costmodel.runtime import load_runtime
    from meshwright.planner.codesign import codesign, parse_vary

    executing = load_runtime(runtime)
    problem = problem_of(model, cluster, gpus, global_batch, seq_len, precision, 1.0, tuple(fix or ()), executing)
    _check_outputs(csv, plot)
    with _progress_bar() as progress:
        study = codesign(
            problem,
            hold=hold,
            vary=parse_vary(tuple(vary), problem.model),
            adjust=adjust,
            multiple=_multiple(multiple),
            tolerance_fraction=tolerance,
            capacity=capacity,
            tokens=tokens,
            runtime=executing,
            workers=workers,
            force=force,
            progress=progress,
        )
    _write(study, csv, plot)
    _print(study, csv, plot, as_json=as_json)
    _end(study)


def _end(study: CodesignStudy) -> None:
    """The exit status of a study that was not finished, said on stderr as well."""
    from meshwright.planner.codesign import Status
    from meshwright.planner.task_pool import INTERRUPTED

    if not study.is_partial:
        return
    done = sum(shape.status is not Status.NOT_DONE for shape in study.shapes)
    typer.echo(f"meshwright: {study.stopped}: {done:,} of {len(study.shapes):,} shapes", err=True)
    raise typer.Exit(INTERRUPTED_STATUS if study.stopped == INTERRUPTED else FAILED_STATUS)


def _multiple(multiple: int | None) -> int:
    from meshwright.costmodel.errors import InputError

    if multiple is not None and multiple < 1:
        raise InputError("--multiple", "", f"{multiple} is not a positive whole number")
    return multiple or 0


def _check_outputs(csv: Path | None, plot: Path | None) -> None:
    """Nothing is searched for hours to be lost at the end."""
    from meshwright.costmodel.errors import InputError
    from meshwright.planner.serialise import check_writable

    for output in (csv, plot):
        if output is not None:
            check_writable(output)
    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError("--plot", str(plot), "is no PNG file; expected a name that ends in .png")
    if csv is not None and plot is not None and csv.resolve() == plot.resolve():
        raise InputError("--csv", str(csv), "is the file of --plot as well")


def _progress_bar() -> AbstractContextManager[Callable[[int, int], None] | None]:
    """On a terminal, a bar on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return nullcontext(None)
    from meshwright.commands.progress import point_bar

    return point_bar(console, "shapes")


def _write(study: CodesignStudy, csv: Path | None, plot: Path | None) -> None:
    from meshwright.planner.codesign.columns import csv_bytes
    from meshwright.planner.codesign.plot import plot_png
    from meshwright.planner.serialise import write_whole

    if csv is not None:
        write_whole(csv_bytes(study), csv)
    if plot is not None:
        write_whole(plot_png(study), plot)


def _print(study: CodesignStudy, csv: Path | None, plot: Path | None, *, as_json: bool) -> None:
    from meshwright.planner.codesign.describe import describe_study

    if as_json:
        print_json(study)
        return
    print_sections(describe_study(study))
    for what, path in (("table", csv), ("plot", plot)):
        if path is not None:
            typer.echo(f"{what} written to {path}")
