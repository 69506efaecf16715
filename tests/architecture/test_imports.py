"""Imports point down only: the contracts in pyproject.toml hold, and they would notice a breach."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def _lint(root: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(root / "src"), "PYTHONSAFEPATH": "1", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def test_the_contracts_hold(repository: Path) -> None:
    done = _lint(repository)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "breach"),
    [
        ("costmodel/breach.py", "import meshwright.planner"),
        ("costmodel/breach.py", "import torch"),
        ("hardware_profiles/breach.py", "import meshwright.commands"),
        ("executor/breach.py", "import meshwright.planner.search"),
        ("kernels/breach.py", "import meshwright.executor"),
        ("src/meshwright/breach.py", "x = 1"),
    ],
    ids=["upwards", "torch", "data to face", "executor searches", "kernels upwards", "module outside every layer"],
)
def test_the_contracts_notice_a_breach(repository: Path, tmp_path: Path, module: str, breach: str) -> None:
    for folder in ("src", "costmodel", "executor", "hardware_profiles", "kernels", "planner"):
        shutil.copytree(repository / folder, tmp_path / folder, symlinks=True)
    shutil.copy(repository / "pyproject.toml", tmp_path)
    (tmp_path / module).write_text(breach + "\n", encoding="utf-8")
    done = _lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
