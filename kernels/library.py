"""Finds, builds at first use, and loads the library of kernels; or says why not."""

from __future__ import annotations

from collections.abc import Callable

import torch

from meshwright.costmodel.errors import InputError
from meshwright.kernels.build import BuiltLibrary, build_library, built_library
from meshwright.kernels.catalogue import NAMESPACE, operator_names
from meshwright.kernels.errors import KernelBuildError

CAPABILITY = (9, 0)


def why_not_device(index: int = 0) -> str | None:
    """Why a GPU can't run the kernels; None: it can."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability(index)
    if capability != CAPABILITY:
        name = torch.cuda.get_device_name(index)
        return f"{name} has compute capability {capability[0]}.{capability[1]}, the kernels are for 9.0 (Hopper)"
    return None


def load(built: BuiltLibrary) -> None:
    """Load a library; afterwards its operators are in torch.ops.

    Raises:
        KernelBuildError: It does not load, or operators are missing.
    """
    try:
        torch.ops.load_library(built.path)
    except OSError as problem:
        raise KernelBuildError(f"{built.path} does not load: {problem.__cause__ or problem}") from problem
    operators = getattr(torch.ops, NAMESPACE)
    missing = sorted(name for name in operator_names() if not hasattr(operators, name))
    if missing:
        raise KernelBuildError(f"{built.path} lacks the operators {', '.join(missing)}")


def make_ready(say: Callable[[str], None]) -> str | None:
    """Load the library, building it first where there is a compiler; the reason where that can't be."""
    try:
        load(built_library() or build_library(say))
    except (KernelBuildError, InputError) as problem:
        return str(problem)
    return None
