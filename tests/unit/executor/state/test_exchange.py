"""Sums over ranks that shard, and over those that hold the same shard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("exchange_ranks.py")
SECONDS = 120


def test_sums_over_four_ranks_of_every_sharding_and_format(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={
            **os.environ,
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": str(repository / "src"),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == ""
