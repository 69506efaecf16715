"""The driver that times layers, tried on CPU: it runs, checks itself, and writes a record."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from meshwright.executor.layer_timing.record import read_record


def _run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(repository / "src"), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(repository / "benchmarks" / "layer_times.py"), "--device", "cpu", *arguments]
    return subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=300
    )


def test_layers_are_timed_beside_their_prediction(repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "times.json"
    done = _run(repository, "--tiny", "--passes", "2", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "median absolute error of 10 passes" in done.stdout
    record = read_record(output)
    assert [layer.model for layer in record.layers] == [
        "dense",
        "dense, normed heads",
        "moe",
        "moe, empty experts",
        "latent",
    ]
    for layer in record.layers:
        assert layer.output_error < 1e-5
        assert layer.host_reads == 0
        assert all(op.measured.low_s <= op.measured.median_s <= op.measured.high_s for op in layer.operators)


def test_natural_routing_over_two_ranks_reads_split_sizes_once(repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "times.json"
    names = "ep2-alltoall,ep2-allgather"
    arguments = ("--tiny", "--num-gpus", "2", "--natural-routing", "--strategies", names, "--passes", "2")
    done = _run(repository, *arguments, "--output", str(output))
    assert done.returncode == 0, done.stderr
    layers = read_record(output).layers
    assert {layer.strategy for layer in layers} == set(names.split(","))
    assert [layer.host_reads for layer in layers] == [1] * len(layers)
