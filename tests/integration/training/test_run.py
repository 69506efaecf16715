"""`meshwright run` from the plan to its records, on processes of this machine."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

LONGEST_S = 60
FOLDED = "sp=2,dp=2,ep=4,dispatch=alltoall"


def test_a_tiny_mixture_of_experts_trains_on_four_processes(
    make_plan: Callable[[str, int, str], Plan],
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    plan = make_plan("moe", 4, FOLDED)
    write_plan(plan, tmp_path / "plan.json")
    start_s = time.monotonic()
    done = run("plan.json", "--steps", "20", "--device", "cpu", "--learning-rate", "1e-2", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start_s < LONGEST_S
    assert "moe: 20 steps, loss 4.1" in done.stdout
    steps = [json.loads(line) for line in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(20))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["predicted_step_time_s"] == plan.prediction.step_time_s
    assert record["model_hash"] == plan.model.hash
    assert (record["num_steps"], record["comparable"], record["device"]) == (20, False, "cpu")
    (stage,) = record["stages"]
    measured, predicted = stage["measured_s"], stage["predicted_s"]
    assert 0 < measured["collectives"] < measured["forward"] + measured["backward"] < record["step_time_s"]
    assert predicted["forward"] < predicted["backward"] < plan.prediction.step_time_s <= sum(predicted.values())
    assert record["tokens_per_s"] == pytest.approx(8 * 16 / record["step_time_s"])


def test_experts_are_balanced_and_bounded_as_asked(
    make_plan: Callable[[str, int, str], Plan],
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    write_plan(make_plan("groups of experts", 2, "dp=2,ep=2,dispatch=alltoall-dedup"), tmp_path / "plan.json")
    asked = ("--aux-loss", "0.5:per-device", "--z-loss", "0.01", "--bias-speed", "0.01", "--capacity", "1")
    done = run("plan.json", "--steps", "2", "--device", "cpu", "-o", "out", *asked)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()]
    for step in steps:
        assert step["aux_loss"] == pytest.approx(0.5 * 3, rel=0.05)  # of three layers, 1 where loads are even
        assert step["z_loss"] == pytest.approx(0.01 * 3 * math.log(8) ** 2, rel=0.1)
        assert 0.02 < step["dropped_fraction"] < 0.6
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["balancing"] == {
        "aux_loss": 0.5,
        "aux_scope": "per-device",
        "z_loss": 0.01,
        "bias_speed": 0.01,
        "capacity_factor": 1.0,
    }


def test_a_failed_rank_ends_the_run_with_one_reason(
    make_plan: Callable[[str, int, str], Plan],
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    write_plan(make_plan("dense", 2, "dp=2"), tmp_path / "plan.json")
    done = run("plan.json", "--steps", "9", "--device", "cpu", "--learning-rate", "1e30")
    assert done.returncode == 1
    fallback, first, second = done.stderr.splitlines()
    assert fallback == "kernels: PyTorch references run instead of CUDA kernels: tensors are on cpu"
    assert "not finite" in first
    assert second.startswith("meshwright: run: rank ")


def test_another_number_of_ranks_is_refused_before_anything_starts(
    make_plan: Callable[[str, int, str], Plan],
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    write_plan(make_plan("moe", 4, FOLDED), tmp_path / "plan.json")
    done = run("plan.json", "--device", "cpu", RANK="0", WORLD_SIZE="8")
    assert done.returncode == 2
    assert "the plan is for 4 ranks, here are 8 started by torchrun" in done.stderr
    assert "--gpus 8" in done.stderr
