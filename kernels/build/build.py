"""Compiles and links the library, once for each state of the sources and each compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.kernels.build.cache import (
    LIBRARY_NAME,
    BuildRecord,
    BuiltLibrary,
    build_lock,
    built_library_at,
    cache_folder,
    read_record,
    record_path,
    remove_left_scratch,
    scratch_folder,
)
from meshwright.kernels.build.ptxas import KernelReport, check_report
from meshwright.kernels.build.sources import (
    BUILD_SCHEMA_VERSION,
    LIBRARIES,
    LINK_FLAGS,
    ROOT,
    Unit,
    build_name,
    library_digest,
    sources_digest,
    units,
)
from meshwright.kernels.build.toolkit import Toolkit, find_toolkit, torch_folder
from meshwright.kernels.errors import KernelBuildError

MOST_COMPILERS: Final = 8
COMPILE_TIMEOUT_S: Final = 600

Say = Callable[[str], None]
"""Takes one line of progress."""


def build_library(say: Say, *, again: bool = False) -> BuiltLibrary:
    """The library of the present sources, built unless it is there (or `again`).

    Raises:
        KernelBuildError: There is no compiler, or it refuses a source, or a kernel spills registers.
    """
    toolkit = find_toolkit()
    name = build_name(toolkit)
    target = cache_folder() / name
    library = target / LIBRARY_NAME
    with build_lock(name, say):
        remove_left_scratch()
        if again or built_library_at(library) is None:
            _build_into(target, toolkit, say)
        else:
            say(f"kernels: {library} is up to date")
    return BuiltLibrary(path=str(library), record=read_record(library))


def copy_library(built: BuiltLibrary, folder: Path) -> Path:
    """Copy library and record where $MESHWRIGHT_KERNELS_LIBRARY may point to; returns the library's new path.

    Raises:
        InputError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(str(folder), "", f"is no folder for the library: {problem.strerror}") from problem
    source = Path(built.path)
    for path in (record_path(source), source):
        partial = folder / f".{path.name}.{os.getpid()}"
        shutil.copyfile(path, partial)
        partial.replace(folder / path.name)
    return folder / source.name


def _build_into(target: Path, toolkit: Toolkit, say: Say) -> None:
    """Build beside the target and rename: a folder of that name is complete."""
    with scratch_folder(target.name) as scratch:
        folder = scratch / target.name
        folder.mkdir()
        library = folder / LIBRARY_NAME
        kernels = _compile_all(scratch, library, toolkit, say)
        record = BuildRecord(
            schema_version=BUILD_SCHEMA_VERSION,
            sources=sources_digest(),
            cuda=toolkit.version,
            torch=version("torch"),
            kernels=kernels,
            size_bytes=library.stat().st_size,
            library=library_digest(library),
        )
        record_path(library).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
        if target.exists():
            target.rename(scratch / "replaced")
        folder.rename(target)
    say(f"kernels: built {target / LIBRARY_NAME}")


def _compile_all(scratch: Path, library: Path, toolkit: Toolkit, say: Say) -> tuple[KernelReport, ...]:
    torch = torch_folder()
    jobs = units(torch)
    objects = [scratch / f"{Path(job.source).stem}.o" for job in jobs]

    def compile_one(number: int) -> tuple[KernelReport, ...]:
        say(f"kernels: compiling {jobs[number].source} ({number + 1} of {len(jobs)})")
        return _compile(jobs[number], objects[number], toolkit)

    with ThreadPoolExecutor(max_workers=min(MOST_COMPILERS, os.cpu_count() or 1)) as pool:
        reports = list(pool.map(compile_one, range(len(jobs))))
    say("kernels: linking")
    _run(
        [toolkit.nvcc, *LINK_FLAGS, "-o", str(library), *map(str, objects), "-L", str(torch / "lib"), *LIBRARIES],
        LIBRARY_NAME,
    )
    return tuple(kernel for report in reports for kernel in report)


def _compile(unit: Unit, target: Path, toolkit: Toolkit) -> tuple[KernelReport, ...]:
    said = _run([toolkit.nvcc, *unit.flags, "-c", str(ROOT / unit.source), "-o", str(target)], unit.source)
    return check_report(unit.source, said) if unit.reports else ()


def _run(command: Sequence[str], what: str) -> str:
    """Run the compiler; returns what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise KernelBuildError(f"{what}: {problem}") from problem
    said = done.stdout + done.stderr
    if done.returncode:
        raise KernelBuildError(f"{what}: nvcc failed\n{said.strip()}")
    return said
