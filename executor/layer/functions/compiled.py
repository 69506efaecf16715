"""Functions compiled by torch.compile, and whether it can compile for a device."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

LOGGER = logging.getLogger(__name__)
COMPILERS = ("gcc", "clang", "cc")
"""C compilers that Triton's launchers are built with; the variable CC names another."""


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function compiled for every shape that it is called with."""
    made: Callable[Arguments, Result] = _compiled(function, dynamic=False)
    return made


def compiled_for_any_length(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function compiled once for all lengths: a dim whose size changes between calls is left open."""
    made: Callable[Arguments, Result] = _compiled(function, dynamic=None)
    return made


@lru_cache(maxsize=64)
def _compiled(function: Callable[..., Result], *, dynamic: bool | None) -> Callable[..., Result]:
    made: Callable[..., Result] = torch.compile(function, fullgraph=True, dynamic=dynamic)
    return made


@lru_cache(maxsize=1)
def compiles_for_cuda() -> bool:
    """Whether torch.compile can make CUDA kernels here; says what is missing, once."""
    missing = [] if find_spec("triton") is not None else ["triton"]
    if not any(map(shutil.which, (os.environ.get("CC", COMPILERS[0]), *COMPILERS))):
        missing.append("a C compiler")
    if missing:
        LOGGER.warning("functions run uncompiled, and slower: %s is missing", " and ".join(missing))
    return not missing
