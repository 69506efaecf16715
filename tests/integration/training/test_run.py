"""`meshwright run` from the plan to its records, on processes of this machine."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright.costmodel.stage_cost import cost_context
from meshwright.executor.data.token_writer import write_tokens
from meshwright.executor.data.window_order import WindowOrder
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.serialise import write_plan
from meshwright.planner.trace.action_slices import Lane

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
    done = run("plan.json", "--steps", "20", "--device", "cpu", "--learning-rate", "1e-2", "-o", "out", "--profile")
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
    assert record["one_stream"]
    (stage,) = record["stages"]
    measured, predicted = stage["measured_s"], stage["predicted_s"]
    assert 0 < measured["exposed"] <= measured["collectives"]
    assert measured["collectives"] < measured["forward"] + measured["backward"] < record["step_time_s"]
    assert predicted["forward"] < predicted["backward"] < plan.prediction.step_time_s <= sum(predicted.values())
    assert [step["recorded"] for step in steps] == [False] * 17 + [True] * 3
    check_operators(record["operators"], plan)
    check_trace(json.loads((tmp_path / "out" / "trace.json").read_text()))
    assert "operators alone, predicted on the plan's GPUs and measured" in done.stdout
    assert record["tokens_per_s"] == pytest.approx(8 * 16 / record["step_time_s"])


def check_operators(operators: list[dict[str, Any]], plan: Plan) -> None:
    """Every operator of the passes that ran, each once, measured and predicted."""
    found = [(one["part"], one["phase"], one["name"]) for one in operators]
    assert len(set(found)) == len(found)
    assert {part for part, _, _ in found} == {"embedding", "layers 0-3", "head"}
    context = cost_context(configuration_of(plan))
    program = context.program(plan.model.layers[0], plan.layers[0].strategy)
    forward = {name for part, phase, name in found if (part, phase) == ("layers 0-3", "forward")}
    assert forward == {operator.name for operator in program.forward}
    assert all(0 < one["measured_s"] <= one["longest_s"] and one["predicted_s"] > 0 for one in operators)
    (dispatch,) = (one for one in operators if one["name"] == "dispatch")
    assert (dispatch["work"], dispatch["runs"]) == ("collective", 4 * plan.pipeline.num_micro_batches)
    assert {one["stream"] for one in operators} == {"compute"}


def check_trace(trace: dict[str, Any]) -> None:
    """A process for the predicted stage and one for each rank, with the same layers and operators.

    On the CPU all operators are on the thread of the compute stream, collectives, too; all else is on like threads.
    """
    events = trace["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert list(names.values()) == ["stage 0: 4 GPUs, predicted", *(f"rank {n}: stage 0, measured" for n in range(4))]
    seen: dict[int, set[tuple[str, str, int]]] = {pid: set() for pid in names}
    for event in events:
        if event["ph"] == "X" and event["cat"] not in ("wait", "parameter gather"):
            lane = event["tid"] - 10 * event["pid"]
            seen[event["pid"]] |= {(name, event["cat"], lane) for name in event["name"].split(" + ")}
    predicted, *measured = seen.values()
    assert ("dispatch", "forward", Lane.NVLINK) in predicted
    for one in measured:
        assert one <= predicted | {(name, category, Lane.COMPUTE) for name, category, _ in predicted}
        assert not {Lane.NVLINK, Lane.NETWORK} & {lane for _, _, lane in one}
        assert ("dispatch", "forward", Lane.COMPUTE) in one
        assert {name for name, _, _ in one} == {name for name, _, _ in predicted}


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
    fallback, reason = done.stderr.splitlines()
    assert fallback == "kernels: PyTorch references run instead of CUDA kernels: tensors are on cpu"
    assert reason.startswith("meshwright: run: step ")
    assert "not finite" in reason


def test_a_token_beyond_the_vocabulary_is_named_by_the_rank_that_reads_it(
    make_plan: Callable[[str, int, str], Plan],
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """The header hides it, so that it is found in training only; the last rank alone reads it."""
    write_plan(make_plan("dense", 2, "dp=2"), tmp_path / "plan.json")
    tokens = tmp_path / "tokens.bin"
    num_steps, num_windows = 6, 6 * 8
    documents = [[7] * (num_windows * 16 + 1)]
    write_tokens(documents, tokens, vocabulary=64, tokenizer="none", end_of_document=None)
    order = WindowOrder(count=num_windows, seed=0, epoch=0)
    place = order.window(3 * 8 + 7) * 16 + 5  # the last sequence of step 3
    content = bytearray(tokens.read_bytes())
    content[2 * place : 2 * place + 2] = (999).to_bytes(2, "little")
    tokens.write_bytes(content)
    done = run("plan.json", "--steps", str(num_steps), "--device", "cpu", "--data", "tokens.bin", "-o", "out")
    assert done.returncode == 2, done.stderr
    reason = f"tokens.bin: token {place:,}: 999, beyond the model's vocabulary; expected an id below 64"
    assert done.stderr.splitlines()[1:] == [f"meshwright: error: {reason}"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["failed"], record["rank"], record["status"]) == (reason, 1, 2)


def test_a_part_of_a_plan_for_more_ranks_is_emulated(
    make_plan: Callable[[str, int, str], Plan],
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    write_plan(make_plan("moe", 8, "dp=8,ep=8,dispatch=alltoall"), tmp_path / "plan.json")
    done = run("plan.json", "--steps", "5", "--device", "cpu", "--emulate", "layers", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "emulated: 1 of 4 layers, pp 1 cut to 1, dp 8 to 4, ep 8 to 4, with fewer experts;" in done.stdout
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    measured = {one["name"] for one in record["operators"] if one["part"] == "layers 0-3"}
    predicted = {one["name"] for one in record["emulation"]["predicted_only"] if one["part"] == "layers 0-3"}
    assert {"attention", "experts_fc1", "experts_fc2.dgrad"} <= measured
    assert {"router", "dispatch", "combine.backward"} <= predicted
    assert not measured & predicted


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
