"""The checks of kernels with shared memory under compute-sanitizer's racecheck, small enough for less than a minute."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from meshwright.kernels.build.ptxas import KernelReport
from meshwright.kernels.catalogue import KERNELS
from meshwright.kernels.errors import KernelBuildError

SANITIZER: Final = "compute-sanitizer"
PLACES: Final = ("bin", "compute-sanitizer")
MOST_SLOTS: Final = 5000
"""Enough for several blocks of every kernel; more take racecheck minutes."""


def find_sanitizer() -> Path:
    """The sanitizer on the path, in $CUDA_HOME or in /usr/local/cuda.

    Raises:
        KernelBuildError: It is in none of them.
    """
    homes = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    found = shutil.which(SANITIZER)
    candidates = [Path(found)] if found else []
    candidates += [home / place / SANITIZER for home in homes for place in PLACES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise KernelBuildError(f"{SANITIZER} is neither on the path nor in $CUDA_HOME nor in /usr/local/cuda")


def with_shared_memory(reports: Iterable[KernelReport]) -> tuple[str, ...]:
    """Operations of the catalogue with a kernel that has shared memory: the others have nothing to race for.

    >>> report = KernelReport(
    ...     source="index/index.cu", name="f", registers=32, stack_bytes=0, spill_bytes=0, shared_bytes=16
    ... )
    >>> with_shared_memory([report])
    ('index',)
    """
    sources = {report.source for report in reports if report.shared_bytes}
    return tuple(kernel.name for kernel in KERNELS if kernel.source in sources)


def racecheck_command(sanitizer: Path, check: tuple[str, ...], kernels: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """What to run. `check`: the command that checks kernels, without options."""
    watched = ("--tool", "racecheck", "--kernel-name", "kernel_substring=meshwright", "--error-exitcode", "1")
    small = ("--check", "--small", "--most-slots", str(MOST_SLOTS), "--only", ",".join(kernels), "--seed", str(seed))
    return (str(sanitizer), *watched, *check, *small)
