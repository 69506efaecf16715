from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from meshwright.cli import main
from meshwright.kernels.build.cache import BuildRecord, record_path
from meshwright.kernels.build.sources import BUILD_SCHEMA_VERSION, library_digest, sources_digest
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


def test_a_library_that_does_not_load_is_told_of_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is as it was built, but no library for this machine."""
    library = tmp_path / "lib.so"
    library.write_bytes(b"for another machine")
    record = BuildRecord(
        schema_version=BUILD_SCHEMA_VERSION,
        sources=sources_digest(),
        cuda="13.0.88",
        torch="2.11.0",
        kernels=(),
        size_bytes=library.stat().st_size,
        library=library_digest(library),
    )
    record_path(library).write_bytes(msgspec.json.encode(record))
    monkeypatch.setenv("MESHWRIGHT_KERNELS_LIBRARY", str(library))
    assert main(["kernels"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("library: ")]
    assert len(told) == 1
    assert f"{library} does not load: " in told[0]
    assert main(["kernels", "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert "does not load" in state["problem"]
    assert not any(kernel["runs"] for kernel in state["kernels"])


SLOW_COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo V13.0.88 && exit
touch "$0.started"
exec sleep 0.5
"""


def test_a_build_that_is_told_to_end_leaves_nothing_half_made(tmp_path: Path) -> None:
    compiler = tmp_path / "bin" / "nvcc"
    compiler.parent.mkdir()
    compiler.write_text(SLOW_COMPILER)
    compiler.chmod(0o755)
    source = str(Path(__file__).resolve().parents[3] / "src")
    settings = {"PYTHONPATH": source, "PYTHONSAFEPATH": "1", "CUDA_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "meshwright", "kernels", "build"]
    with subprocess.Popen(command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True) as build:
        while build.poll() is None and not compiler.with_name("nvcc.started").exists():
            time.sleep(0.01)
        assert list((tmp_path / "meshwright" / "kernels").glob(".build-*"))
        build.terminate()
        build.communicate()
    assert build.returncode == 130
    assert [path.suffix for path in (tmp_path / "meshwright" / "kernels").iterdir()] == [".lock"]
