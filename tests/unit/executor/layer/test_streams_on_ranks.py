"""Layers on several streams compute to the bit what they compute on one; memory does not grow from batch to batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "overlap_ranks.py"
SECONDS = 400

Check = Callable[..., int]


@pytest.fixture
def check(repository: Path) -> Check:
    """Run the script; the number of cases."""
    environment = {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(repository / "src"), os.environ.get("PYTHONPATH")))),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }

    def run(*arguments: str) -> int:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        ranks = json.loads(done.stdout)
        for rank, cases in enumerate(ranks):
            for case, found in cases.items():
                assert found["different"] == [], f"rank {rank}, {case}"
                for measure in ("peak_bytes", "num_held"):
                    few, many = found[measure]
                    assert few == many, f"rank {rank}, {case}: {measure}"
        return len(ranks[0])

    return run


def test_collectives_of_two_ranks_beside_computation(check: Check) -> None:
    assert check("2", "cpu", "ep, sar") == 3


def test_a_rank_alone_on_any_streams(check: Check) -> None:
    assert check("1", "cpu", "moe") == 3


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_on_gpus_whose_streams_sleep_at_random(num_ranks: int, check: Check) -> None:
    if torch.cuda.device_count() < num_ranks:
        pytest.skip(f"needs {num_ranks} CUDA devices")
    assert check(str(num_ranks), "cuda") > 5
