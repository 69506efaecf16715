"""A run that goes on from a checkpoint comes to what it would have come to: to the bit, or under another plan."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

SCRIPT = Path(__file__).with_name("resume_ranks.py")
TOLERANCE = 1e-10
SECONDS = 300
PLANS: dict[str, tuple[int, str]] = {
    "moe: one": (1, "mbs=8"),
    "moe: ep": (2, "dp=2,ep=2,mbs=2,dispatch=alltoall"),
    "moe: edp, zero 0": (2, "dp=2,ep=1,mbs=4,zero=0"),
    "moe: ep, zero 2": (2, "dp=2,ep=2,mbs=2,dispatch=alltoall,zero=2"),
    "moe: edp, zero 3": (2, "dp=2,ep=1,mbs=4,zero=3"),
    "moe: tp": (2, "tp=2,ep=1,mbs=8"),
    "moe: zb-v": (2, "pp=2,mbs=2,schedule=zb-v"),
    "moe: etp": (2, "tp=2,ep=1,etp=2,mbs=4,dispatch=alltoall"),
    "odd vocabulary: one": (1, "mbs=8"),
    "odd vocabulary: tp, one key head": (2, "tp=2,mbs=8"),
    "dense: one": (1, "mbs=8"),
    "dense: dp": (2, "dp=2,mbs=4"),
    "dense: zero 3": (2, "dp=2,mbs=2,zero=3"),
    "dense: zero 3, sharded over 2": (4, "dp=4,mbs=2,zero=3"),
    "dense: 1f1b, tied ends": (2, "pp=2,mbs=2,schedule=1f1b"),
    "groups of experts: one": (1, "mbs=8"),
    "groups of experts: ep": (2, "dp=2,ep=2,mbs=2,dispatch=allgather"),
}
"""Micro-batches are few and large: what a checkpoint holds does not depend on them."""

Found = dict[str, dict[str, Any]]


@pytest.fixture
def phase(tmp_path: Path, process_environment: dict[str, str]) -> Callable[[int, str], Found]:
    """Runs a phase of the script on so many ranks."""

    def run(num_ranks: int, name: str) -> Found:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path), str(num_ranks), name],
            env=process_environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: Found = json.loads(done.stdout)
        return found

    return run


def test_every_plan_goes_on_from_every_other(
    make_plan: Callable[[str, int, str], Plan], phase: Callable[[int, str], Found], tmp_path: Path
) -> None:
    for name, (num_ranks, fixes) in PLANS.items():
        plan = make_plan(name.partition(":")[0], num_ranks, fixes)
        degree = 2 if "sharded over 2" in name else 0
        write_plan(replace(plan, sharding=replace(plan.sharding, shard_degree=degree)), tmp_path / f"{name}.plan.json")
    for num_ranks in (1, 2, 4):
        phase(num_ranks, "save")
    found = phase(1, "resume") | phase(2, "resume") | phase(4, "resume")
    assert len(found) == 8 * 8 + 5 * 5 + 2 * 2 + 2 * 2
    assert [f"{pair}: {one}" for pair, one in found.items() if not one["error"] <= TOLERANCE] == []
    same = [f"{name} -> {name}" for name in PLANS]
    assert [pair for pair in same if not found[pair]["exact"]] == []
