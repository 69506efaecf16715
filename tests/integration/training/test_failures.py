"""Ranks that die or hang, and disks that are full: what is said, how soon, and what is left."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

MakePlan = Callable[[str, int, str], Plan]
Run = Callable[..., subprocess.CompletedProcess[str]]

FOLDED = "sp=2,dp=2,ep=4,dispatch=alltoall"
FAILS = """
import os, signal, sys, time

if os.environ.get("RANK") == os.environ["FAILS"] and "meshwright" in " ".join(sys.orig_argv):
    from meshwright.executor.observe.observer import StepObserver

    around = StepObserver.around

    def failing(self, operator, run):
        def instead():
            at = self.whereabouts.position.place
            if at.startswith("step 2, layer 1 forward") and operator.name == "experts_fc1":
                {what}
            run()

        around(self, operator, instead)

    StepObserver.around = failing
"""
IS_SLOW = """
import os, sys, time

if os.environ.get("RANK") == "1" and "meshwright" in " ".join(sys.orig_argv):
    from meshwright.executor.observe.observer import StepObserver

    around = StepObserver.around

    def slow(self, operator, run):
        around(self, operator, lambda: (operator.name == "attention" and time.sleep(0.05), run()))

    StepObserver.around = slow
"""
DIES, SLEEPS = "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)"
AT = r"step 2, layer 1 forward of micro-batch \d+"


def processes_with(word: str) -> list[str]:
    """The command lines of this machine that have a word."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if word in file.read_text(errors="replace"):
                found.append(file.parent.name)
        except OSError:  # gone, or another user's
            continue
    return found


@pytest.fixture
def fails(make_plan: MakePlan, run: Run, tmp_path: Path, process_environment: dict[str, str]) -> Callable[..., str]:
    """Runs ranks of which one fails in an operator; returns what is said in the end."""

    def start(what: str, *arguments: str, device: str = "cpu") -> str:
        ranks, fixes, failing = (4, FOLDED, "2") if device == "cpu" else (2, "dp=2,ep=2,dispatch=alltoall", "1")
        write_plan(make_plan("moe", ranks, fixes), tmp_path / "plan.json")
        (tmp_path / "sitecustomize.py").write_text(FAILS.format(what=what))
        path = os.pathsep.join((str(tmp_path), process_environment["PYTHONPATH"]))
        common = ("plan.json", "--device", device, "--dtype", "float32", "--steps", "1000", "-o", "out")
        done = run(*common, *arguments, PYTHONPATH=path, MARK=f"mark-{tmp_path}", FAILS=failing)
        assert done.returncode == 1, done.stderr
        assert processes_with(f"MARK=mark-{tmp_path}") == []
        assert "Traceback" not in done.stderr
        *before, line = done.stderr.splitlines()
        assert device != "cpu" or [text.partition(":")[0] for text in before] == ["kernels"], done.stderr
        assert len((tmp_path / "out" / "steps.jsonl").read_bytes().splitlines()) == 2
        return line

    return start


def test_a_killed_rank_is_named_with_where_it_was_and_where_the_others_waited(
    fails: Callable[..., str], tmp_path: Path
) -> None:
    start_s = time.monotonic()
    line = fails(DIES, "--checkpoint", "saved")
    assert time.monotonic() - start_s < 60
    found = re.fullmatch(rf"meshwright: run: rank 2 died \(signal 9: [a-z' ]+\) in {AT}, experts_fc1; (.*)", line)
    assert found, line
    assert re.search(rf"ranks? [0-3, ]+ waited in {AT}, all-to-all combine", found[1]), line
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["rank"], record["status"], record["positions"][2]["doing"]) == (2, -9, "experts_fc1")
    assert f"meshwright: run: {record['failed']}" == line


@pytest.mark.gpu
@pytest.mark.parametrize(("what", "arguments"), [(DIES, ()), (SLEEPS, ("--timeout", "10"))])
def test_the_same_on_gpus(fails: Callable[..., str], what: str, arguments: tuple[str, ...]) -> None:
    """The host of the rank that waits has gone on: where its device stands is told."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    line = fails(what, *arguments, device="cuda")
    where = "died (signal 9: often the host's memory ran out)" if what is DIES else "was"
    assert re.search(rf"rank 1 {re.escape(where)} in {AT}, experts_fc1", line), line
    assert re.search(r"rank 0 waited in step 2, ", line), line


def test_a_rank_that_hangs_is_named_after_the_timeout(fails: Callable[..., str]) -> None:
    line = fails(SLEEPS, "--timeout", "10")
    assert line.startswith("meshwright: run: no rank gets on (--timeout): "), line
    assert re.search(rf"rank 2 was in {AT}, experts_fc1", line), line
    assert re.search(rf"waited in {AT}, all-to-all combine", line), line


def test_ranks_end_with_the_process_that_has_started_them(
    make_plan: MakePlan, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    write_plan(make_plan("dense", 2, "dp=2"), tmp_path / "plan.json")
    command = [
        sys.executable,
        "-m",
        "meshwright",
        "run",
        "plan.json",
        "--device",
        "cpu",
        "--steps",
        "1000000",
        "-o",
        "out",
    ]
    steps = tmp_path / "out" / "steps.jsonl"
    mark = {"MARK": f"mark-{tmp_path}"}
    with subprocess.Popen(command, env=process_environment | mark, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        _until(lambda: steps.is_file() and steps.read_bytes().count(b"\n") >= 2)
        assert len(processes_with(f"MARK=mark-{tmp_path}")) == 3
        process.kill()
    _until(lambda: not processes_with(f"MARK=mark-{tmp_path}"))


def _until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.fixture
def limited(
    make_plan: MakePlan, tmp_path: Path, process_environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one rank whose files may have so many bytes."""
    write_plan(make_plan("moe", 1, "mbs=4"), tmp_path / "plan.json")

    def start(num_bytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

        return subprocess.run(
            [sys.executable, "-m", "meshwright", "run", "plan.json", "--device", "cpu", *arguments],
            env=process_environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            preexec_fn=limit,
        )

    return start


def test_a_checkpoint_that_does_not_fit_leaves_the_last_good_one(
    limited: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    saving = ("--checkpoint", "saved", "-o", "out")
    assert limited(2**30, *saving, "--steps", "1").returncode == 0
    done = limited(50_000, *saving, "--steps", "2", "--resume")
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == ["meshwright: error: saved: cannot be written: File too large"]
    assert (tmp_path / "saved" / "latest").read_text() == "step-000000000001\n"
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["latest", "step-000000000001"]


def test_steps_that_cannot_be_written_end_the_run_by_name(
    limited: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = limited(1000, "--steps", "100", "-o", "out")
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == ["meshwright: error: out/steps.jsonl: cannot be written: File too large"]
    assert (tmp_path / "out" / "steps.jsonl").stat().st_size <= 1000


def test_a_slow_rank_is_pointed_at(
    make_plan: MakePlan, run: Run, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """The others wait for it where routers tell each other how many rows come: that is no work of theirs."""
    write_plan(make_plan("moe", 2, "dp=2,ep=2,mbs=4,dispatch=alltoall"), tmp_path / "plan.json")
    (tmp_path / "sitecustomize.py").write_text(IS_SLOW)
    path = os.pathsep.join((str(tmp_path), process_environment["PYTHONPATH"]))
    choices = ("plan.json", "--device", "cpu", "--steps", "8", "--time-operators", "0", "-o", "out")
    done = run(*choices, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    (slow,) = json.loads((tmp_path / "out" / "run.json").read_text())["slow_ranks"]
    assert slow["rank"] == 1
    assert "rank 1" in done.stdout + done.stderr
