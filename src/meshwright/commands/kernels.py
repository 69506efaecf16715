"""`meshwright kernels`: what custom kernels there are, what is built, what runs here and why not; and building them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_json, print_table

if TYPE_CHECKING:
    from meshwright.kernels.build import BuiltLibrary

EXAMPLES = """\b
Examples:
  meshwright kernels
  meshwright kernels build
  meshwright kernels build -o build/kernels      for a machine without nvcc: $MESHWRIGHT_KERNELS_LIBRARY
"""

COLUMNS = ("kernel", "what", "built", "most registers", "runs here")


class Action(StrEnum):
    """What to do."""

    LIST = "list"
    BUILD = "build"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """A kernel and whether it runs here; `why_not` is empty where it does.

    registers: the most that one of its kernels uses, 0 where it is not built.
    """

    name: str
    what: str
    operators: tuple[str, ...]
    built: bool
    registers: int
    runs: bool
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryState:
    """The built library; `path` is empty where there is none. `nvcc` is the compiler that would build, or empty.

    problem: why the library does not load; empty where it does, or where PyTorch is missing.
    """

    path: str
    problem: str
    cuda: str
    nvcc: str
    kernels: tuple[KernelState, ...]


def command(
    action: Annotated[Action, typer.Argument(help="list, or build all kernels with nvcc.")] = Action.LIST,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="build: copy the library there, too.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="build: even if this state of the sources is built.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """List custom CUDA kernels, or build them.

    Says of each whether it is built and runs on this machine, or why not. Where it does not, its PyTorch reference
    runs.
    """
    if action is Action.BUILD:
        build(output, again=again)
    elif output is not None or again:
        raise typer.BadParameter("--output and --again belong to `meshwright kernels build`")
    state = library_state()
    if as_json:
        print_json(state)
        return
    print_table("Kernels", COLUMNS, [_row(kernel) for kernel in state.kernels])
    typer.echo(f"library: {state.problem or state.path or 'not built; meshwright kernels build'}")
    typer.echo(f"compiler: {state.nvcc or 'none found'}")


def build(output: Path | None, *, again: bool) -> None:
    """Build the library, telling how far it is on stderr."""
    from meshwright.executor.measure_hardware.stop import ends_as_interrupted
    from meshwright.kernels.build.build import build_library, copy_library

    with ends_as_interrupted():
        built = build_library(_say, again=again)
    if output is not None:
        copied = copy_library(built, output)
        print(f"kernels: copied to {copied}", file=sys.stderr)  # noqa: T201


def _say(line: str) -> None:
    """A line in one piece: several compilers run at once."""
    sys.stderr.write(f"{line}\n")


def library_state() -> LibraryState:
    """What there is; builds nothing."""
    from meshwright.kernels.build import built_library
    from meshwright.kernels.catalogue import KERNELS

    built, why_not = built_library(), _why_not()
    problem = _why_not_loaded(built) if built else ""
    reason = why_not or ("the library does not load" if problem else "" if built else "not built")
    return LibraryState(
        path=built.path if built else "",
        problem=problem,
        cuda=built.record.cuda if built else "",
        nvcc=_compiler(),
        kernels=tuple(
            KernelState(
                name=kernel.name,
                what=kernel.summary,
                operators=kernel.operators,
                built=built is not None,
                registers=_registers(kernel.source, built),
                runs=not reason,
                why_not=reason,
            )
            for kernel in KERNELS
        ),
    )


def _why_not() -> str:
    """Why this machine runs no kernels; empty where it does."""
    if not _has_torch():
        return "PyTorch is not installed"
    from meshwright.kernels.dispatch import MODE_VARIABLE, Mode, dispatcher
    from meshwright.kernels.library import why_not_device

    if dispatcher().mode is Mode.REFERENCE:
        return f"${MODE_VARIABLE} is reference"
    return why_not_device() or ""


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


def _why_not_loaded(built: BuiltLibrary) -> str:
    """Why the library does not load; empty where it does, or where PyTorch is missing."""
    if not _has_torch():
        return ""
    from meshwright.kernels.errors import KernelBuildError
    from meshwright.kernels.library import load

    try:
        load(built)
    except KernelBuildError as problem:
        return str(problem)
    return ""


def _compiler() -> str:
    from meshwright.kernels.build import find_toolkit
    from meshwright.kernels.errors import KernelBuildError

    try:
        toolkit = find_toolkit()
    except KernelBuildError:
        return ""
    return f"{toolkit.nvcc} {toolkit.version}"


def _registers(source: str, built: BuiltLibrary | None) -> int:
    """The most registers of a source's kernels."""
    kernels = built.record.kernels if built else ()
    return max((kernel.registers for kernel in kernels if kernel.source == source), default=0)


def _row(kernel: KernelState) -> tuple[str, ...]:
    return (
        kernel.name,
        kernel.what,
        "yes" if kernel.built else "no",
        str(kernel.registers or "-"),
        "yes" if kernel.runs else f"no: {kernel.why_not}",
    )
