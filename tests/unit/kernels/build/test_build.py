"""nvcc compiles every kernel without a warning and without a spilled register, and the build is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.kernels.build import BuiltLibrary, build_library, built_library
from meshwright.kernels.build.build import _compile, copy_library
from meshwright.kernels.build.cache import LIBRARY_VARIABLE
from meshwright.kernels.build.sources import CUDA_FLAGS, Unit
from meshwright.kernels.build.toolkit import find_toolkit
from meshwright.kernels.catalogue import KERNELS
from meshwright.kernels.errors import KernelBuildError

pytestmark = pytest.mark.nvcc

SPILLS = """
__global__ void __launch_bounds__(1024, 2) spilling(float* x) {
    float held[96];
    #pragma unroll
    for (int i = 0; i < 96; ++i) held[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 96; ++i) x[threadIdx.x * 96 + i] = held[i] * held[(i * 7 + 3) % 96];
}
"""
WARNS = "__global__ void warning(float* x) { int unused = 3; x[0] = 1.0f; }\n"


def test_all_kernels_compile_without_spills(built: BuiltLibrary) -> None:
    assert {kernel.source for kernel in built.record.kernels} == {kernel.source for kernel in KERNELS}
    assert all(kernel.spill_bytes == kernel.stack_bytes == 0 for kernel in built.record.kernels)
    assert all(kernel.registers <= 128 for kernel in built.record.kernels)


def test_a_build_is_made_once(built: BuiltLibrary, kernel_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(kernel_cache))
    lines: list[str] = []
    assert build_library(lines.append) == built
    assert lines == [f"kernels: {built.path} is up to date"]


def test_a_copy_is_found_by_its_name(built: BuiltLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = copy_library(built, tmp_path / "there")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(copied))
    found = built_library()
    assert found is not None
    assert (found.path, found.record) == (str(copied), built.record)


@pytest.mark.parametrize(
    ("code", "problem"), [(SPILLS, "spills"), (WARNS, "nvcc failed"), ("int f() { return }", "nvcc failed")]
)
def test_spills_warnings_and_mistakes_are_refused(built: BuiltLibrary, tmp_path: Path, code: str, problem: str) -> None:
    assert built
    source = tmp_path / "kernel.cu"
    source.write_text(code, encoding="utf-8")
    unit = Unit(source=str(source), flags=CUDA_FLAGS, reports=True)
    with pytest.raises(KernelBuildError, match=problem):
        _compile(unit, tmp_path / "kernel.o", find_toolkit())
