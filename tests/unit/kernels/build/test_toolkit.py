from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.kernels.build import toolkit
from meshwright.kernels.build.toolkit import find_toolkit
from meshwright.kernels.errors import KernelBuildError


def _compiler(folder: Path, version: str) -> None:
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release, V{version}'\n", encoding="utf-8")
    nvcc.chmod(0o755)


def test_the_compiler_of_cuda_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _compiler(tmp_path, "13.1.2")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert (find_toolkit().nvcc, find_toolkit().version) == (str(tmp_path / "bin" / "nvcc"), "13.1.2")


def test_an_old_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _compiler(tmp_path, "12.8.93")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(KernelBuildError, match=r"is of CUDA 12.8.93, expected 13.0 or later"):
        find_toolkit()


def test_no_compiler_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolkit, "USUAL_PLACES", ())
    monkeypatch.setattr(toolkit, "WHEEL_PLACES", ())
    with pytest.raises(KernelBuildError, match="no nvcc in"):
        find_toolkit()
