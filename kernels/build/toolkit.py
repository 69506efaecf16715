"""Finds nvcc and PyTorch's headers. Neither torch nor a GPU is needed for that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from meshwright.costmodel.value import Value
from meshwright.kernels.errors import KernelBuildError

LEAST_VERSION = (13, 0)
USUAL_PLACES = (Path("/usr/local/cuda/bin/nvcc"),)
WHEEL_PLACES = ("nvidia/cu13/bin/nvcc", "nvidia/cuda_nvcc/bin/nvcc")
QUERY_TIMEOUT_S = 30


class Toolkit(Value, frozen=True, kw_only=True):
    """A CUDA compiler and its release, such as 13.0.88."""

    nvcc: str
    version: str


def find_toolkit() -> Toolkit:
    """The compiler of $CUDA_HOME, of the path, of /usr/local/cuda or of the wheel nvidia-cuda-nvcc, first found first.

    Raises:
        KernelBuildError: There is none, or it is too old.
    """
    nvcc = next((place for place in _places() if place.is_file() and os.access(place, os.X_OK)), None)
    if nvcc is None:
        raise KernelBuildError(
            "no nvcc in $CUDA_HOME/bin, on the path, in /usr/local/cuda or in a wheel nvidia-cuda-nvcc"
        )
    version = _version_of(nvcc)
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_VERSION:
        wanted = ".".join(str(part) for part in LEAST_VERSION)
        raise KernelBuildError(f"{nvcc} is of CUDA {version}, expected {wanted} or later")
    return Toolkit(nvcc=str(nvcc), version=version)


def _places() -> list[Path]:
    home, on_path = os.environ.get("CUDA_HOME"), shutil.which("nvcc")
    site = Path(sysconfig.get_path("purelib"))
    places = [Path(home) / "bin" / "nvcc"] if home else []
    places += [Path(on_path)] if on_path else []
    return [*places, *USUAL_PLACES, *(site / place for place in WHEEL_PLACES)]


def _version_of(nvcc: Path) -> str:
    try:
        done = subprocess.run(
            [str(nvcc), "--version"], capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as problem:
        raise KernelBuildError(f"{nvcc} --version failed: {problem}") from problem
    found = re.search(r"\bV(\d+\.\d+\.\d+)", done.stdout)
    if found is None:
        raise KernelBuildError(f"{nvcc} --version names no release")
    return found.group(1)


def torch_folder() -> Path:
    """Where torch is installed, found without importing it.

    Raises:
        KernelBuildError: It is not, or without headers.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise KernelBuildError("PyTorch is not installed: pip install meshwright[train]")
    folder = Path(spec.origin).parent
    header = folder / "include" / "torch" / "csrc" / "stable" / "library.h"
    if not header.is_file():
        raise KernelBuildError(f"PyTorch has no stable-ABI headers ({header}); 2.11 or later has them")
    return folder
