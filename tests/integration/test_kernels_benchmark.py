"""The driver that checks and times kernels, tried on CPU: it checks the references and refuses unknown names."""

from __future__ import annotations

import json
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
    assert "1010 of 1010 right" in done.stdout


def test_an_unknown_kernel_is_refused(repository: Path) -> None:
    done = _run(repository, "--only", "attention")
    assert done.returncode == 2
    assert "attention: expected route, index" in done.stderr


def test_a_run_is_shown_as_a_table(repository: Path, tmp_path: Path) -> None:
    def spread(median_s: float) -> dict[str, object]:
        return {"median_s": median_s, "low_s": median_s, "high_s": median_s, "captured": True}

    row = {
        "kernel": "route",
        "what": "route",
        "shape": "64 tokens",
        "time": spread(1e-5),
        "num_bytes": 20_000_000,
        "share": 0.66,
        "launches": 2,
        "baselines": {"compiled": spread(3e-5), "eager": "RuntimeError"},
        "target": {"share": 0.6, "ratio": 2.0},
    }
    record = {
        "schema_version": 1,
        "machine": {"device": "H100", "torch": "2.11"},
        "date": "2026-01-01",
        "command": "",
        "sources": "",
        "cuda": "13.0",
        "checks": 7,
        "wrong": [],
        "implementations": [],
        "copy_bytes_per_s": 3e12,
        "rows": [row],
    }
    path = tmp_path / "kernels.json"
    path.write_text(json.dumps(record))
    done = _run(repository, "--table", str(path))
    assert done.returncode == 0, done.stderr
    assert "| route | 64 tokens | 10.0 | 2.00 | 66% (60%) | compiled | 30.0 | 3.00 (2.0) |" in done.stdout
    path.write_text("{}")
    refused = _run(repository, "--table", str(path))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"kernels: {path}: ")
    assert refused.stderr.count("\n") == 1
