"""Shared by the tests of kernels: the library, built once for all workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshwright.kernels.build import BuiltLibrary, build_library, find_toolkit
from meshwright.kernels.errors import KernelBuildError

REQUIRED = "MESHWRIGHT_REQUIRE_NVCC"


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory, worker_count: int) -> Path:
    """A cache folder that the workers of one run share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if worker_count > 1 else base) / "kernel-cache"


@pytest.fixture(scope="session")
def worker_count(request: pytest.FixtureRequest) -> int:
    """Workers of this run."""
    worker_input: dict[str, int] = getattr(request.config, "workerinput", {})
    return worker_input.get("workercount", 1)


@pytest.fixture(scope="session")
def built(kernel_cache: Path) -> BuiltLibrary:
    """All kernels compiled by nvcc; skips where there is none, unless one is required."""
    try:
        find_toolkit()
    except KernelBuildError as problem:
        if os.environ.get(REQUIRED):
            raise
        pytest.skip(f"kernels are not compiled: {problem}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(kernel_cache))
        return build_library(lambda _: None)
