"""`meshwright run`: trains the planned model the planned way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from meshwright.executor.train.record import RunRecord, StepRecord
    from meshwright.executor.train.request import RunRequest

Choice = TypeVar("Choice", bound=StrEnum)

EXAMPLES = """\b
Examples:
  meshwright plan docs/tiny_moe.json --cluster h100 --gpus 4 --global-batch 16 --seq-len 64 --fix zero=1 -o plan.json
  meshwright run plan.json --steps 20 --device cpu
  meshwright run plan.json --steps 20 --profile -o run      # then open run/trace.json in ui.perfetto.dev
  meshwright run plan_for_64_gpus.json --emulate layers --steps 12     # its operators' times on the GPUs here
  meshwright run plan.json --data tokens.bin --steps 1000 --checkpoint saved --save-every 100
  meshwright run plan.json --data tokens.bin --steps 1000 --checkpoint saved --print-launch | sbatch
  meshwright run plan.json --data tokens.bin --steps 1000 --aux-loss 0.001:per-batch --capacity 1.25
  meshwright run plan.json --data tokens.bin --steps 1000 --aux-loss 0.0001 --bias-speed 0.001
"""

IN_A_CHECKOUT = ".venv/bin/pip install -e '.[train]'"


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that `meshwright plan -o` wrote.")],
    steps: Annotated[int, typer.Option(metavar="N", help="Optimizer steps, those before --resume included.")] = 20,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="RUN_DIR", help="Folder of steps.jsonl and run.json.")
    ] = Path("run"),
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where to train; auto: on GPUs where there are any.")
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            metavar="auto|bfloat16|float32|float64", help="Weights; auto: bfloat16 on GPUs, float32 on the CPU."
        ),
    ] = "auto",
    data: Annotated[
        str,
        typer.Option(metavar="NAME_OR_PATH", help="A file of `meshwright tokenize`, or uniform, zipf, markov."),
    ] = "markov",
    model: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG_OR_FOLDER", help="The model's config.json: epsilons, rotary base, gate weights."),
    ] = None,
    load: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Begin with the weights of a Hugging Face folder.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="In the end, write a Hugging Face folder (safetensors).")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Checkpoints, in the end and at SIGTERM or Ctrl-C; the newest three stay."),
    ] = None,
    save_every: Annotated[int, typer.Option(metavar="N", help="A checkpoint every N steps, too; 0: none.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    seed: Annotated[int, typer.Option(help="Draws weights, synthetic tokens and the order of data.")] = 0,
    learning_rate: Annotated[float, typer.Option(metavar="X", help="The greatest learning rate.")] = 3e-4,
    warm_up_steps: Annotated[int, typer.Option(metavar="N", help="Steps of linear warm-up.")] = 0,
    decay: Annotated[str, typer.Option(metavar="cosine|linear|constant", help="Decay to a tenth.")] = "cosine",
    weight_decay: Annotated[float, typer.Option(metavar="X", help="AdamW's; spares norms and biases.")] = 0.1,
    clip: Annotated[float, typer.Option(metavar="X", help="Gradients are scaled down to this norm.")] = 1.0,
    aux_loss: Annotated[
        str,
        typer.Option(
            metavar="COEF[:per-sequence|per-batch|per-device]",
            help="Train routers for even loads, too: within each sequence, over a step, or of ranks only.",
        ),
    ] = "0",
    z_loss: Annotated[float, typer.Option(metavar="COEF", help="Train routers for small logits, too.")] = 0.0,
    bias_speed: Annotated[
        float, typer.Option(metavar="X", help="Each step moves experts' balancing biases by X (DeepSeek-V3: 0.001).")
    ] = 0.0,
    capacity: Annotated[
        str,
        typer.Option(
            metavar="FACTOR|planned|dropless", help="Tokens of a sequence that an expert takes at most, over the mean."
        ),
    ] = "planned",
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Send tokens to experts in turn, for timing: routing is not learned.")
    ] = False,
    skip_not_finite: Annotated[
        bool, typer.Option("--skip-not-finite", help="Leave out steps whose loss is not a number instead of ending.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Event files in RUN_DIR/tensorboard, too; needs that package.")
    ] = False,
    one_stream: Annotated[
        bool, typer.Option("--one-stream", help="Overlap nothing inside layers, to see what the plan's overlap brings.")
    ] = False,
    exchanged_rows: Annotated[
        str,
        typer.Option(
            metavar="exact|room",
            help="Tokens between ranks of experts: exactly as many as there are, for which the host waits once a layer,"
            " or with room to spare, so that it never does.",
        ),
    ] = "exact",
    time_operators: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Time every operator in the last N steps, half of those behind the first three at most; 0: never."
            " Slows these steps.",
        ),
    ] = 3,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write a late step, and the predicted one, to RUN_DIR/trace.json.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="End the run when ranks wait so long for one that does not come.")
    ] = 600.0,
    emulate: Annotated[
        str,
        typer.Option(
            metavar="layers|STAGE",
            help="Of a plan for more ranks than are here, time a layer of each kind, or a virtual stage by number.",
        ),
    ] = "",
    print_launch: Annotated[
        bool, typer.Option("--print-launch", help="Print a Slurm batch script with the torchrun line; start nothing.")
    ] = False,
) -> None:
    """Train the planned model the planned way.

    Starts a process a rank on this host; under torchrun, is one of them. Writes a line a step to
    RUN_DIR/steps.jsonl, and RUN_DIR/run.json with the measured step beside the predicted one.
    """
    from meshwright.executor.state.learning_rate import Decay
    from meshwright.executor.train.balancing import read_balancing
    from meshwright.executor.train.request import DeviceChoice, ExchangedRows, Format, RunRequest

    request = RunRequest(
        plan=plan,
        output=output,
        num_steps=steps,
        device=_choice(DeviceChoice, "--device", device),
        format=_choice(Format, "--dtype", dtype),
        data=data,
        model=model,
        load=load,
        export=export,
        checkpoint=checkpoint,
        save_every=save_every,
        resume=resume,
        seed=seed,
        learning_rate=learning_rate,
        warm_up_steps=warm_up_steps,
        decay=_choice(Decay, "--decay", decay),
        weight_decay=weight_decay,
        max_norm=clip,
        balanced=balanced,
        skip_not_finite=skip_not_finite,
        tensorboard=tensorboard,
        one_stream=one_stream,
        time_operators=time_operators,
        profile=profile,
        timeout_s=timeout,
        emulate=emulate,
        exchanged_rows=_choice(ExchangedRows, "--exchanged-rows", exchanged_rows),
        balancing=read_balancing(aux_loss, z_loss, bias_speed, capacity),
    )
    if print_launch:
        _print_launch(request)
        return
    _check_torch()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the cores to other processes
    _run(request)


def _print_launch(request: RunRequest) -> None:
    from meshwright.executor.train.cluster_launch import slurm_script
    from meshwright.planner.serialise import read_plan

    typer.echo(slurm_script(read_plan(request.plan), arguments_of(request), request.checkpoint), nl=False)


def _check_torch() -> None:
    from meshwright.costmodel.errors import InputError

    if find_spec("torch") is None:
        raise InputError("run", "", f"needs PyTorch: pip install 'meshwright[train]', in a checkout {IN_A_CHECKOUT}")


def _choice(kind: type[Choice], option: str, text: str) -> Choice:
    from meshwright.costmodel.errors import InputError

    known = [member.value for member in kind]
    if text not in known:
        raise InputError(option, text, f"is unknown; expected one of {', '.join(known)}")
    return kind(text)


def _run(request: RunRequest) -> None:
    """Run; of the ranks that torchrun started only the first speaks, unless another alone knows what went wrong.

    Where ranks have failed, whoever has started them says so for all, if it is `meshwright run` itself.
    """
    from meshwright.costmodel.errors import MeshwrightError
    from meshwright.planner.serialise import read_plan

    if "RANK" not in os.environ:  # of ranks that torchrun started one speaks, below
        read_plan(request.plan)  # what is no plan is told before PyTorch is loaded
    from meshwright.executor.data.token_file import TokenError
    from meshwright.executor.train.entry import is_started_rank, run
    from meshwright.executor.train.rank import LostRanksError, RankMemoryError
    from meshwright.executor.train.stopping import StoppedError
    from meshwright.executor.train.supervision import is_supervised, leave_process, leave_reason

    silent = is_started_rank() and os.environ["RANK"] != "0"
    try:
        with _step_bar(request.num_steps, shown=not silent) as told:
            summary = run(request, arguments_of(request), told)
    except LostRanksError as error:
        if is_supervised():
            leave_process(error.exit_status)
        raise
    except MeshwrightError as error:
        if is_supervised():
            leave_reason(int(os.environ["RANK"]), error.saved if isinstance(error, StoppedError) else error)
            leave_process(error.exit_status)
        if silent and not isinstance(error, RankMemoryError | TokenError):
            raise typer.Exit(error.exit_status) from error
        raise
    if summary is not None:
        _print_summary(summary, request)
    if request.export is not None and not silent and not is_supervised():
        typer.echo(f"weights written to {request.export}")


def arguments_of(request: RunRequest) -> list[str]:
    """The arguments of `meshwright` that ask for the same run."""
    arguments = ["run", str(request.plan), "--output", str(request.output), "--steps", str(request.num_steps)]
    arguments += ["--device", request.device, "--dtype", request.format, "--decay", request.decay]
    paths = {
        "--model": request.model,
        "--load": request.load,
        "--export": request.export,
        "--checkpoint": request.checkpoint,
    }
    arguments += [text for option, path in paths.items() if path is not None for text in (option, str(path))]
    arguments += ["--data", request.data, *(["--emulate", request.emulate] if request.emulate else [])]
    arguments += ["--exchanged-rows", request.exchanged_rows.value]
    arguments += ["--aux-loss", request.balancing.aux_text, "--capacity", request.balancing.capacity_text]
    numbers = {
        "--seed": request.seed,
        "--save-every": request.save_every,
        "--learning-rate": request.learning_rate,
        "--warm-up-steps": request.warm_up_steps,
        "--weight-decay": request.weight_decay,
        "--clip": request.max_norm,
        "--time-operators": request.time_operators,
        "--timeout": request.timeout_s,
        "--z-loss": request.balancing.z_loss,
        "--bias-speed": request.balancing.bias_speed,
    }
    arguments += [text for option, number in numbers.items() for text in (option, repr(number))]
    flags = {
        "--balanced": request.balanced,
        "--skip-not-finite": request.skip_not_finite,
        "--resume": request.resume,
        "--tensorboard": request.tensorboard,
        "--one-stream": request.one_stream,
        "--profile": request.profile,
    }
    return arguments + [option for option, is_set in flags.items() if is_set]


@contextmanager
def _step_bar(num_steps: int, *, shown: bool) -> Iterator[Callable[[StepRecord], None]]:
    """A bar on stderr, where that is a terminal, with the latest figures; it appears with the first step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=Console(stderr=True), disable=not (shown and sys.stderr.isatty()))
    task = bar.add_task("", total=num_steps)

    def told(record: StepRecord) -> None:
        bar.start()
        bar.update(task, completed=record.step + 1, description=step_text(record))

    try:
        yield told
    finally:
        bar.stop()


def step_text(record: StepRecord) -> str:
    """The figures of a step that are worth watching, on one line."""
    parts = [f"loss {record.loss:.4f}", f"norm {record.gradient_norm:.3g}", f"{record.tokens_per_s:,.0f} tokens/s"]
    if record.mfu is not None:
        parts.append(f"MFU {record.mfu:.1%}")
    if record.expert_load:
        parts.append(f"busiest expert {record.expert_load:.2f} x mean")
    if record.dropped_fraction:
        parts.append(f"dropped {record.dropped_fraction:.1%}")
    return "  ".join([*parts, f"{record.peak_memory_bytes / 2**30:.1f} GiB"])


def _print_summary(summary: RunRecord, request: RunRequest) -> None:
    skipped = f", {summary.skipped_steps} skipped" if summary.skipped_steps else ""
    repeated = f", {summary.repeated_steps} done twice for want of room" if summary.repeated_steps else ""
    losses = f"loss {summary.first_loss:.4f} to {summary.last_loss:.4f}"
    steps = "1 step" if summary.num_steps == 1 else f"{summary.num_steps} steps"
    typer.echo(f"{summary.model}: {steps}{skipped}{repeated}, {losses}")
    measured = f"step {summary.step_time_s:.4g} s, {summary.tokens_per_s:,.0f} tokens/s on {summary.device}"
    predicted = f"predicted {summary.predicted_step_time_s:.4g} s"
    if summary.comparable:
        typer.echo(f"{measured}; {predicted}, {summary.step_time_error:+.1%}")
        typer.echo(
            f"predicted for the executor as it runs {summary.predicted_as_run.step_time_s:.4g} s,"
            f" {summary.as_run_error:+.1%}"
        )
    else:
        typer.echo(f"{measured}; {predicted} on the plan's GPUs")
    for slow in summary.slow_ranks:
        typer.echo(
            f"slow: rank {slow.rank} on {slow.host} computes {slow.compute_s:.4g} s a step,"
            f" the median of stage {slow.stage} is {slow.median_s:.4g} s"
        )
    _print_emulation(summary)
    _print_operators(summary)
    names = ["steps.jsonl", "run.json"]
    names += ["trace.json"] * (request.profile and (request.output / "trace.json").is_file())
    names += ["tensorboard/"] * request.tensorboard
    typer.echo(f"written to {request.output}: {', '.join(names)}")


def _print_emulation(summary: RunRecord) -> None:
    emulation = summary.emulation
    if emulation is None:
        return
    cut, mesh, plan = ", with fewer experts" if emulation.experts_cut else "", summary.mesh, emulation.plan_mesh
    typer.echo(
        f"emulated: {len(emulation.layers)} of {emulation.plan_layers} layers, pp {plan.pp} cut to 1, dp {plan.dp} to"
        f" {mesh.dp}, ep {plan.ep} to {mesh.ep}{cut}; the step is of that, the operators below are those of the plan"
    )
    if emulation.expert_imbalance > 1.0:
        typer.echo(
            f"experts: predicted for {emulation.expert_imbalance:.3g} times the mean rows, as the plan expects of its"
            " busiest rank; measured with the rows that were routed here (--balanced: the mean)"
        )
    names = list(dict.fromkeys(one.name for one in emulation.predicted_only))
    typer.echo(f"predicted only, not run as planned ({len(names)}): {', '.join(names)}")


def _print_operators(summary: RunRecord) -> None:
    from meshwright.commands.output import print_table
    from meshwright.executor.train.operator_table import COLUMNS, COMPARED_COLUMNS, operator_rows, worst_operators

    if not summary.operators:
        return
    on = "" if summary.comparable else " on the plan's GPUs"
    title = f"operators alone, predicted{on} and measured, those farthest apart ({len(summary.operators)} in run.json)"
    rows = operator_rows(worst_operators(summary.operators), comparable=summary.comparable)
    print_table(title, COMPARED_COLUMNS if summary.comparable else COLUMNS, rows)
