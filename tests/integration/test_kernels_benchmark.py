"""The driver that checks and times kernels, tried on CPU: it checks the references and refuses unknown names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def _run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(repository / "src")}
    command = [sys.executable, str(repository / "benchmarks" / "kernels.py"), *arguments]
    return subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=120
    )


def test_references_are_checked_on_the_cpu(repository: Path) -> None:
    done = _run(repository, "--check", "--device", "cpu", "--only", "index")
    assert done.returncode == 0, done.stderr
    assert "80 of 80 right" in done.stdout


def test_an_unknown_kernel_is_refused(repository: Path) -> None:
    done = _run(repository, "--only", "attention")
    assert done.returncode == 2
    assert "attention: expected route, index" in done.stderr
