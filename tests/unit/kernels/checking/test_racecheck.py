"""What runs under racecheck: the kernels with shared memory, in their small cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.kernels.build import BuiltLibrary
from meshwright.kernels.checking.cases import CASES
from meshwright.kernels.checking.racecheck import (
    MOST_SLOTS,
    SANITIZER,
    find_sanitizer,
    racecheck_command,
    with_shared_memory,
)
from meshwright.kernels.errors import KernelBuildError
from meshwright.kernels.index.launch import chunks


@pytest.mark.nvcc
def test_kernels_with_shared_memory_are_those_of_the_build(built: BuiltLibrary) -> None:
    assert with_shared_memory(built.record.kernels) == ("route", "index", "regroup", "swiglu_fp8")


def test_some_small_case_has_several_blocks() -> None:
    assert max(chunks(slots).num_blocks for case in CASES if (slots := case.tokens * case.top_k) <= MOST_SLOTS) > 1


def test_the_command_checks_small_cases_under_the_sanitizer() -> None:
    command = racecheck_command(Path("/s"), ("python", "kernels.py"), ("route", "index"), 7)
    assert command[:3] == ("/s", "--tool", "racecheck")
    assert " ".join(command).endswith("python kernels.py --check --small --most-slots 5000 --only route,index --seed 7")


def test_the_sanitizer_is_looked_for_in_the_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr("meshwright.kernels.checking.racecheck.PLACES", ("here",))
    with pytest.raises(KernelBuildError, match="neither on the path"):
        find_sanitizer()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / SANITIZER).touch()
    assert find_sanitizer() == tmp_path / "here" / SANITIZER
