"""`meshwright profile`: measures this machine's GPUs and links, and writes what they really reach as a profile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_table

if TYPE_CHECKING:
    from meshwright.costmodel.hardware import HardwareProfile
    from meshwright.executor.measure_hardware import ProfileRequest
    from meshwright.executor.measure_hardware.comparison import Comparison
    from meshwright.executor.measure_hardware.outcome import ProfileOutcome
    from meshwright.hardware_profiles.measurements import Machine, Measurements

EXAMPLES = """\b
Examples:
  meshwright profile --quick -o trial.json
  meshwright profile -o my-gpus.json
  meshwright profile --rebuild my-gpus.measurements.json -o my-gpus.json
  meshwright profile --rebuild my-gpus.json.partial.jsonl -o my-gpus.json
  torchrun --nnodes 2 --nproc-per-node 8 ... -m meshwright profile -o my-cluster.json
"""

MOST_SKIPPED = 20
COLUMNS = ("figure", "measured", "data sheet", "unit", "share")


def command(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PROFILE.json", help="Where the profile goes.")
    ] = Path("profile.json"),
    measurements: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Where every sample goes; default: beside the profile."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few samples of each kind, in about a minute.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Measure all again instead of going on after an interruption.")
    ] = False,
    shared: Annotated[bool, typer.Option("--shared", help="Measure although others use the GPUs.")] = False,
    base: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Profile with the data sheet; default: by the GPU's name.")
    ] = None,
    rebuild: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Build the profile from measurements or from an interrupted run; needs no GPU."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the order of samples and the shapes that tables are judged by.")] = 0,
) -> None:
    """Measure this machine's GPUs and links.

    Takes about six minutes on one GPU, longer on several; an interrupted run goes on where it stopped. No setting of a
    GPU is changed.
    """
    if rebuild is not None:
        rebuild_profile(rebuild, output, measurements or _beside(output), base)
        return
    from meshwright.executor.measure_hardware.preflight import check_torch
    from meshwright.executor.measure_hardware.request import ProfileRequest

    check_torch()
    from meshwright.executor.measure_hardware.entry import Extent

    request = ProfileRequest(
        output=output,
        measurements=measurements or _beside(output),
        extent=Extent.QUICK if quick else Extent.FULL,
        restart=restart,
        shared=shared,
        base=base,
        seed=seed,
    )
    run(request)


def _beside(output: Path) -> Path:
    return output.with_name(f"{output.stem}.measurements.json")


def rebuild_profile(source: Path, output: Path, measurements: Path, base: str | None) -> None:
    """The profile of measurements that a file has; those that an interrupted run left are written, too."""
    from meshwright.costmodel.errors import InputError, ProfileError
    from meshwright.executor.measure_hardware.base_profile import base_profile
    from meshwright.executor.measure_hardware.comparison import comparisons
    from meshwright.executor.measure_hardware.files import write_json
    from meshwright.executor.measure_hardware.partial import is_partial
    from meshwright.hardware_profiles.build import build_profile
    from meshwright.hardware_profiles.measurements import load_measurements
    from meshwright.planner.serialise import check_writable

    if output.resolve() == source.resolve():
        raise InputError("-o", str(output), "is the file of the measurements; expected another")
    check_writable(output)
    found = _measurements_of_partial(source, measurements) if is_partial(source) else load_measurements(source)
    if not found.samples:
        raise InputError(str(source), "samples", "is empty; expected at least one sample")
    base_of_gpu = base_profile(found.machine.gpu, base)
    try:
        profile = build_profile(found, base=base_of_gpu)
    except ProfileError as error:
        raise InputError(
            str(source), "", f"with --base {base or base_of_gpu.gpu.name} makes no profile: {error}"
        ) from error
    _print_comparisons(found.machine, comparisons(found, base_of_gpu.gpu))
    _print_interference(found)
    write_json(profile, output)
    typer.echo(f"profile written to {output}")


def _measurements_of_partial(source: Path, target: Path) -> Measurements:
    from meshwright.executor.measure_hardware.files import write_json
    from meshwright.executor.measure_hardware.partial import load_partial
    from meshwright.planner.serialise import check_writable

    check_writable(target)
    partial = load_partial(source)
    write_json(partial.measurements, target)
    typer.echo(f"{partial.num_results} results written to {target}")
    whole = f" of {partial.num_samples}" if partial.num_samples else ""
    typer.echo(
        f"warning: incomplete: {source} has {partial.num_results}{whole} results; what is missing is as in the base"
    )
    return partial.measurements


def run(request: ProfileRequest) -> None:
    """Measure, write, print."""
    if os.environ.get("RANK", "0") == "0":  # others of torchrun's ranks write nothing
        from meshwright.executor.measure_hardware.preflight import check_options

        check_options(request)  # before PyTorch is loaded
    from rich.console import Console

    from meshwright.executor.measure_hardware.base_profile import base_profile
    from meshwright.executor.measure_hardware.comparison import comparisons
    from meshwright.executor.measure_hardware.driver import run_profile
    from meshwright.executor.measure_hardware.files import write_json
    from meshwright.executor.measure_hardware.warnings import warnings_of

    console = Console(stderr=True)
    outcome = run_profile(request, console)
    if outcome is None:
        return
    write_json(outcome.measurements, request.measurements)
    typer.echo(f"{len(outcome.measurements.samples)} samples written to {request.measurements}")
    base = base_profile(outcome.measurements.machine.gpu, request.base)
    rows = comparisons(outcome.measurements, base.gpu)
    _print_comparisons(outcome.measurements.machine, rows)
    _print_interference(outcome.measurements)
    _print_skipped(outcome)
    for warning in warnings_of(outcome, rows):
        typer.echo(f"warning: {warning}")
    _write_profile(request, outcome, base)
    outcome.journal.finish()


def _write_profile(request: ProfileRequest, outcome: ProfileOutcome, base: HardwareProfile) -> None:
    from meshwright.executor.measure_hardware.files import write_json
    from meshwright.hardware_profiles.build import build_profile

    write_json(build_profile(outcome.measurements, base=base), request.output)
    typer.echo(f"profile written to {request.output}")


def _print_comparisons(machine: Machine, rows: tuple[Comparison, ...]) -> None:
    print_table(_title(machine), COLUMNS, [_row(row) for row in rows])


def _print_interference(measurements: Measurements) -> None:
    from meshwright.executor.measure_hardware.interference_table import TITLE, interference_table

    if measurements.interference:
        columns, rows = interference_table(measurements.interference)
        print_table(TITLE, columns, rows)


def _title(machine: Machine) -> str:
    return (
        f"{machine.num_gpus} x {machine.gpu}: driver {machine.driver}, CUDA {machine.cuda}, PyTorch {machine.torch}, "
        f"{machine.sm_clock_mhz:.0f} MHz and {machine.power_w:.0f} W of {machine.power_limit_w:.0f} at work"
    )


def _row(row: Comparison) -> tuple[str, ...]:
    printed = f"{row.data_sheet:,.0f}" if row.data_sheet else "-"
    return (row.figure, f"{row.measured:,.0f}", printed, row.unit, f"{row.share:.0%}" if row.data_sheet else "-")


def _print_skipped(outcome: ProfileOutcome) -> None:
    """Each reason once, with how many samples it cost and one of them."""
    reasons: dict[str, list[str]] = {}
    for skipped in outcome.skipped:
        reasons.setdefault(skipped.reason, []).append(skipped.what)
    rows = [(str(len(whats)), reason, whats[0]) for reason, whats in reasons.items()]
    if rows:
        title = f"Not measured: {len(outcome.skipped)}"
        print_table(title, ("samples", "reason", "for example"), rows[:MOST_SKIPPED])
