from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.kernels.catalogue import KERNELS


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MESHWRIGHT_KERNELS_LIBRARY", raising=False)


def test_kernels_are_listed_with_the_reason_why_they_do_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert [kernel["name"] for kernel in state["kernels"]] == [kernel.name for kernel in KERNELS]
    assert state["path"] == ""
    assert all(not kernel["built"] and kernel["runs"] == (not kernel["why_not"]) for kernel in state["kernels"])
    assert all(kernel["why_not"] for kernel in state["kernels"])


def test_the_table_names_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels"]) == 0
    printed = capsys.readouterr().out
    assert all(kernel.name in printed for kernel in KERNELS)
    assert "library: not built; meshwright kernels build" in printed


def test_options_of_build_are_refused_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--again"]) == 2
    assert "belong to `meshwright kernels build`" in capsys.readouterr().err


def test_a_missing_library_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESHWRIGHT_KERNELS_LIBRARY", str(tmp_path / "none.so"))
    assert main(["kernels"]) == 2
    assert "$MESHWRIGHT_KERNELS_LIBRARY" in capsys.readouterr().err
