"""`meshwright plan`: from a model and a cluster to the fastest plan that fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.sections import print_sections

if TYPE_CHECKING:
    from meshwright.costmodel.hardware import ClusterSpec
    from meshwright.costmodel.program.operators import Precision
    from meshwright.costmodel.runtime import RuntimeSpec
    from meshwright.planner.search import SearchProgress, SearchResult
    from meshwright.planner.space import Problem

FIX_KEYS = "tp sp cp pp vp ep etp dp mbs zero schedule recompute attention ffn dispatch wire offload"


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Preset name, or path of a Hugging Face config.json.")],
    cluster: Annotated[str, typer.Option(metavar="CLUSTER", help="Preset name, or path of a cluster YAML file.")],
    global_batch: Annotated[int, typer.Option(metavar="SEQS", help="Sequences a step, over all replicas.")],
    seq_len: Annotated[int, typer.Option(metavar="S", help="Tokens of a sequence.")],
    gpus: Annotated[int | None, typer.Option(metavar="N", help="GPUs in all; default: the file's, or a node.")] = None,
    precision: Annotated[str, typer.Option(metavar="bf16|fp8", help="Number format of the matrix products.")] = "bf16",
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help=f"Pin choices, as in tp=8,pp=16. Keys: {FIX_KEYS}."),
    ] = None,
    expert_imbalance: Annotated[
        float, typer.Option(metavar="X", help="Load of the busiest expert rank over the mean.")
    ] = 1.0,
    runtime: Annotated[
        str, typer.Option(metavar="NAME", help="What executes the plan: meshwright, megascale-moe, megatron, ...")
    ] = "meshwright",
    top: Annotated[int, typer.Option(metavar="K", min=0, help="How many runners-up to report.")] = 5,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the plan (JSON) there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False,
) -> None:
    """Find the fastest plan that fits, and show what it does and why.

    Says how the model is split over the GPUs, what each stage holds in memory, where the time of a step goes, which
    plans came next and what was proven.
    """
    from meshwright.costmodel.runtime import load_runtime
    from meshwright.planner.describe import describe_plan
    from meshwright.planner.plan_conversion import build_plan
    from meshwright.planner.serialise import check_writable, plan_json, write_plan

    executing, fixes = load_runtime(runtime), tuple(fix or ())
    problem = problem_of(model, cluster, gpus, global_batch, seq_len, precision, expert_imbalance, fixes, executing)
    if output is not None:
        check_writable(output)
    result = _search(problem, executing, top)
    plan = build_plan(result.configuration, result.prediction, result.certificate, result.alternatives)
    if output is not None:
        write_plan(plan, output)
    if as_json:
        typer.echo(plan_json(plan), nl=False)
        return
    print_sections(describe_plan(plan))
    if output is not None:
        typer.echo(f"plan written to {output}")


def problem_of(
    model: str,
    cluster: str,
    gpus: int | None,
    global_batch: int,
    seq_len: int,
    precision: str,
    expert_imbalance: float,
    fixes: tuple[str, ...],
    runtime: RuntimeSpec,
) -> Problem:
    """What the options ask for, checked before any search."""
    from meshwright.costmodel.presets import load_model
    from meshwright.costmodel.workload import Workload
    from meshwright.planner.check_fixes import check_fixes
    from meshwright.planner.fixes import parse_fixes
    from meshwright.planner.space import Problem

    problem = Problem(
        model=load_model(model),
        cluster=_cluster(cluster, gpus),
        workload=Workload(
            global_batch=global_batch,
            seq_len=seq_len,
            precision=_precision(precision),
            expert_imbalance=expert_imbalance,
        ),
        fixes=parse_fixes(fixes),
    )
    problem.cluster.gpu.peak_flops_per_s(problem.workload.precision)  # refuses FP8 where the GPU has none
    check_fixes(problem, runtime)
    return problem


def _precision(text: str) -> Precision:
    from meshwright.costmodel.errors import InputError
    from meshwright.costmodel.program.operators import Precision

    if text not in [precision.value for precision in Precision]:
        raise InputError("--precision", text, f"is unknown; expected {' or '.join(Precision)}")
    return Precision(text)


def _cluster(name_or_path: str, gpus: int | None) -> ClusterSpec:
    """The cluster; where the number of GPUs is wrong, the option is named that gave it."""
    from meshwright.costmodel.errors import ClusterError
    from meshwright.hardware_profiles import load_cluster

    cluster = load_cluster(name_or_path)
    if gpus is None:
        return cluster
    try:
        return cluster.with_gpus(gpus)
    except ClusterError as error:
        raise ClusterError("--gpus", "", error.problem) from error


def _search(problem: Problem, runtime: RuntimeSpec, top: int) -> SearchResult:
    """Search; on a terminal, with a line on stderr that tells how far it has come."""
    from rich.console import Console

    from meshwright.planner.search import search

    console = Console(stderr=True)
    if not console.is_terminal:
        return search(problem, top=top, runtime=runtime)
    with console.status("opening the space") as status:
        return search(
            problem, top=top, runtime=runtime, progress=lambda progress: status.update(progress_text(progress))
        )


def progress_text(progress: SearchProgress) -> str:
    """How far a search has come, on one line."""
    best = "none yet" if progress.best_s is None else f"{progress.best_s:.4g} s"
    closed = progress.candidates - progress.remaining
    bound = f", lower bound {progress.lower_bound_s:.4g} s" if progress.best_s is not None else ""
    return f"{closed:,} of {progress.candidates:,} candidates, {progress.solved} solved, best {best}{bound}"
