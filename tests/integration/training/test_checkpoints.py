"""Runs that end early and go on: asked to by a signal, or killed while they save."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

Run = Callable[..., subprocess.CompletedProcess[str]]
SCRIPT = Path(__file__).with_name("killed_run.py")
SECONDS = 120
DIES_ONCE = """
import os, signal, sys
from pathlib import Path

if os.environ.get("RANK") == "1" and "meshwright" in " ".join(sys.orig_argv):
    from meshwright.executor.train.trainer import Trainer

    step = Trainer.step

    def dying(self, number, **how):
        if number == 5 and not Path("dead").exists():
            Path("dead").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number, **how)

    Trainer.step = dying
"""


def losses(folder: Path) -> list[tuple[int, float, float]]:
    """Step, loss and norm of every line."""
    lines = (folder / "steps.jsonl").read_text().splitlines()
    return [(step["step"], step["loss"], step["gradient_norm"]) for step in map(json.loads, lines)]


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    make_plan: Callable[[str, int, str], Plan], run: Run, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    write_plan(make_plan("moe", 1, "mbs=4"), tmp_path / "plan.json")
    common = ("plan.json", "--steps", "6", "--device", "cpu")
    saving = ("--checkpoint", "saved", "--save-every", "2", "-o", "killed")
    command = [sys.executable, str(SCRIPT), "run", *common, *saving]
    with subprocess.Popen(command, env=process_environment, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.kill()
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        ".step-000000000004.partial",
        "latest",
        "step-000000000002",
    ]
    resumed = run(*common, *saving, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert run(*common, "-o", "whole").returncode == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["first_step"] == 2
    assert (tmp_path / "saved" / "latest").read_text() == "step-000000000006\n"


@pytest.mark.parametrize(
    ("num_ranks", "fixes", "number"),
    [
        (2, "dp=2,ep=2,mbs=2,dispatch=alltoall", signal.SIGTERM),
        (2, "dp=2,ep=2,mbs=2,dispatch=alltoall", signal.SIGINT),
        (1, "mbs=4", signal.SIGINT),
    ],
)
def test_who_asks_to_end_finds_all_saved(
    make_plan: Callable[[str, int, str], Plan],
    run: Run,
    tmp_path: Path,
    process_environment: dict[str, str],
    num_ranks: int,
    fixes: str,
    number: signal.Signals,
) -> None:
    """By a scheduler or by Ctrl-C: said once, with the signal that came."""
    write_plan(make_plan("moe", num_ranks, fixes), tmp_path / "plan.json")
    common = ("plan.json", "--device", "cpu", "--decay", "constant")
    saving = ("--checkpoint", "saved", "-o", "stopped")
    command = [sys.executable, "-m", "meshwright", "run", *common, *saving, "--steps", "1000000"]
    steps = tmp_path / "stopped" / "steps.jsonl"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else the process ignores it where this one does
    with subprocess.Popen(command, env=process_environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + SECONDS
        while not (steps.is_file() and steps.read_bytes().count(b"\n") >= 2):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number, said
    done = len(losses(tmp_path / "stopped"))
    line = f"run: stopped by {number.name} after {done} of 1000000 steps; saved has them, --resume goes on"
    assert said.splitlines()[1:] == [f"meshwright: {line}"], said
    assert (tmp_path / "saved" / "latest").read_text() == f"step-{done:012d}\n"
    more = ("--steps", str(done + 2))
    resumed = run(*common, *saving, *more, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert run(*common, *more, "-o", "whole").returncode == 0
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("num_agents", "device"), [(1, "cpu"), (2, "cpu"), pytest.param(1, "cuda", marks=pytest.mark.gpu)]
)
def test_torchrun_starts_ranks_again_that_resume(
    make_plan: Callable[[str, int, str], Plan],
    run: Run,
    tmp_path: Path,
    process_environment: dict[str, str],
    num_agents: int,
    device: str,
) -> None:
    """With two agents, as on two nodes, each counts its own restarts alone."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    write_plan(make_plan("dense", 2, "dp=2,mbs=4"), tmp_path / "plan.json")
    common = ("plan.json", "--device", device, "--steps", "12", "--time-operators", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    agents = ("--nnodes", str(num_agents), "--nproc-per-node", str(2 // num_agents), "--max-restarts", "1")
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint)
    saving = ("--checkpoint", "saved", "--save-every", "2", "-o", "restarted")
    torchrun = [sys.executable, "-m", "torch.distributed.run", *agents, *meeting]
    (tmp_path / "sitecustomize.py").write_text(DIES_ONCE)
    path = os.pathsep.join((str(tmp_path), process_environment["PYTHONPATH"]))
    with ExitStack() as running:
        started = [
            running.enter_context(
                subprocess.Popen(
                    [*torchrun, "-m", "meshwright", "run", *common, *saving],
                    env=process_environment | {"PYTHONPATH": path},
                    cwd=tmp_path,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(num_agents)
        ]
        said = [one.communicate(timeout=SECONDS)[1] for one in started]
    assert [one.returncode for one in started] == [0] * num_agents, said
    assert (tmp_path / "dead").exists()
    assert json.loads((tmp_path / "restarted" / "run.json").read_text())["first_step"] in (2, 4)
    assert run(*common, "-o", "whole").returncode == 0
    assert losses(tmp_path / "restarted") == losses(tmp_path / "whole")
