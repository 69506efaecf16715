"""Layers over two ranks, whatever the strategy, compute what one rank computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "two_ranks.py"
TOLERANCE = 1e-10
SECONDS = 300


def test_every_strategy_agrees_with_autograd_on_one_rank(repository: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(repository / "src"),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = json.loads(done.stdout)
    wrong = [
        f"rank {rank}, {case}: {name} {error:.1e}"
        for rank, cases in enumerate(ranks)
        for case, errors in cases.items()
        for name, error in errors.items()
        if not error <= TOLERANCE
    ]
    assert wrong == []
    assert len(ranks[0]) > 100
