"""Times whole planning commands, as a user runs them, and writes a dated JSON beside this file.

    python benchmarks/planning.py

Each line: seconds of wall clock, peak memory of the process, the plan's step time and the certificate's gap.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from meshwright.planner.dated_record import origin_of, write_record

CASES = (
    ("internal-352b", "h800", 1440, 720, 8192),
    ("deepseek-v3", "h800", 2048, 15360, 4096),
    ("llama-3.1-405b", "h100", 16384, 2048, 8192),
    ("mixtral-8x22b", "h100", 128, 256, 4096),
    ("qwen3-30b-a3b", "h200", 8, 256, 4096),
    ("llama-3.1-8b", "h100", 1, 16, 8192),
    ("llama-2-7b", "a100", 8, 64, 2048),
)
"""Model, cluster, GPUs, global batch, sequence length. Other planners' searches are timed on the last."""


def main() -> None:
    """Run every case once and write the results."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    results = [_help_time(), *(_plan(*case) for case in CASES)]
    for row in results:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    record = origin_of(__file__).head | {
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "pulp": version("pulp"),
        "highspy": version("highspy"),
        "results": results,
    }
    write_record(record, Path(__file__).with_suffix(".json"))


def _help_time() -> dict[str, object]:
    seconds = min(_timed([sys.executable, "-m", "meshwright", "--help"])[0] for _ in range(3))
    return {"case": "--help", "wall_s": round(seconds, 3)}


def _plan(model: str, cluster: str, gpus: int, batch: int, seq_len: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        options = ["--cluster", cluster, "--gpus", gpus, "--global-batch", batch, "--seq-len", seq_len, "-o", out]
        seconds, peak_bytes = _timed([sys.executable, "-m", "meshwright", "plan", model, *map(str, options)])
        plan = json.loads(out.read_text())
    return {
        "case": f"{model} on {gpus} {cluster}",
        "wall_s": round(seconds, 2),
        "peak_memory_mib": round(peak_bytes / 2**20),
        "step_time_s": round(plan["prediction"]["step_time_s"], 4),
        "gap": round(plan["search"]["gap"], 5),
        "candidates": plan["search"]["candidates"],
    }


def _timed(command: list[str]) -> tuple[float, float]:
    """Wall-clock seconds and peak resident bytes of a command that must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
