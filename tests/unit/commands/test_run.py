"""`meshwright run` as far as nothing is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from meshwright.cli import main
from meshwright.commands.run import arguments_of, step_text
from meshwright.executor.layer.router_losses import LossScope
from meshwright.executor.state.learning_rate import Decay
from meshwright.executor.train.balancing import Balancing
from meshwright.executor.train.record import StepRecord
from meshwright.executor.train.request import DeviceChoice, Format, RunRequest

RECORD = StepRecord(
    step=3,
    loss=2.5,
    gradient_norm=0.125,
    learning_rate=1e-3,
    step_time_s=0.5,
    tokens_per_s=12_345.0,
    mfu=None,
    expert_load=0.0,
    peak_memory_bytes=2**30,
    skipped=False,
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "-1"], "--steps: -1 is not a number >= 0"),
        (["--save-every", "2"], "--save-every: needs --checkpoint DIR"),
        (["--resume"], "--resume: needs --checkpoint DIR"),
        (["--device", "tpu"], "--device: tpu: is unknown; expected one of auto, cpu, cuda"),
        (["--dtype", "fp8"], "--dtype: fp8: is unknown"),
        (["--decay", "never"], "--decay: never: is unknown"),
        (["--learning-rate", "-1"], "--learning-rate: -1.0 is not a positive number"),
        (["--learning-rate", "nan"], "--learning-rate: nan is not a positive number"),
        (["--learning-rate", "inf"], "--learning-rate: inf is not a positive number"),
        (["--weight-decay", "inf"], "--weight-decay: inf is not a number >= 0"),
        (["--time-operators", "-1"], "--time-operators: -1 is not a number >= 0"),
        (["--timeout", "0"], "--timeout: 0.0 is not a positive number of seconds"),
        (["--timeout", "inf"], "--timeout: inf is not a positive number of seconds, at most 1e+09"),
        (["--emulate", "0", "--export", "x"], "--export: does not go with --emulate"),
        (["--aux-loss", "0.1:per-token"], "--aux-loss: 0.1:per-token: expected a number, or one with :SCOPE of"),
        (["--capacity", "full"], "--capacity: full: expected a positive number, planned or dropless"),
        (["--z-loss", "-1"], "--z-loss: -1.0 is not a number >= 0"),
        (["--bias-speed", "inf"], "--bias-speed: inf is not a number >= 0"),
        (["--balanced", "--bias-speed", "0.1"], "--bias-speed: does nothing with --balanced"),
        (["--clip", "0"], "--clip: 0.0 is not a positive number"),
        ([], "missing.json: no such file"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["run", str(tmp_path / "missing.json"), "-o", str(tmp_path / "run"), *arguments])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run").exists()


def test_bad_input_is_told_before_pytorch_is_loaded(tmp_path: Path) -> None:
    """All that options and the plan's file show on their own, in one process that must not have torch in the end."""
    options = [["--steps", "-1"], ["--save-every", "-3"], ["--timeout", "0"], ["--learning-rate", "nan"]]
    options += [["--time-operators", "-2"], ["--warm-up-steps", "-1"], ["--resume"], ["--aux-loss", "x"], []]
    calls = [["run", "missing.json", *asked] for asked in options]
    code = f"import sys; from meshwright.cli import main; print([main(c) for c in {calls}], 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{[2] * len(calls)} False\n"
    assert done.stderr.count("\n") == len(calls)


def test_of_ranks_that_torchrun_started_the_first_alone_says_what_is_wrong_with_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(["run", str(tmp_path / "missing.json"), "-o", str(tmp_path / "run")]) == 2
        told.append(capsys.readouterr().err.count("\n"))
    assert told == [1, 0]


@pytest.mark.parametrize("flag", [{"balanced": True}, {"skip_not_finite": True}, {"one_stream": True}])
def test_ranks_get_a_flag_that_is_set(flag: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(RunRequest(plan=Path("plan.json"), output=Path("out"), num_steps=7), **flag)
    seen: list[RunRequest] = []
    monkeypatch.setattr("meshwright.commands.run._run", seen.append)
    main(arguments_of(asked))
    assert seen == [asked]


def test_ranks_are_started_with_the_same_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = RunRequest(
        plan=Path("a plan.json"),
        output=Path("out"),
        num_steps=7,
        device=DeviceChoice.CPU,
        format=Format.FLOAT64,
        seed=5,
        learning_rate=1.25e-4,
        warm_up_steps=2,
        decay=Decay.LINEAR,
        weight_decay=0.05,
        max_norm=0.5,
        skip_not_finite=True,
        time_operators=7,
        profile=True,
        timeout_s=7.5,
        emulate="layers",
        balancing=Balancing(
            aux_loss=0.01, aux_scope=LossScope.PER_BATCH, z_loss=1e-3, bias_speed=2e-3, capacity_factor=1.5
        ),
    )
    seen: list[RunRequest] = []
    monkeypatch.setattr("meshwright.commands.run._run", seen.append)
    arguments = arguments_of(asked)
    main(arguments)
    assert seen == [asked]
    options = [text for text in arguments if text.startswith("--")]
    assert len(set(options)) == len(options)


def test_pytorch_is_asked_for_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("meshwright.commands.run.find_spec", lambda _: None)
    assert main(["run", "plan.json"]) == 2
    expected = "meshwright: error: run: needs PyTorch: pip install 'meshwright[train]', in a checkout "
    assert capsys.readouterr().err == f"{expected}.venv/bin/pip install -e '.[train]'\n"


def test_a_step_on_one_line() -> None:
    assert step_text(RECORD) == "loss 2.5000  norm 0.125  12,345 tokens/s  1.0 GiB"


def test_a_batch_script_is_printed_and_nothing_starts(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = repository / "tests" / "golden" / "plan-v2.json"
    output = tmp_path / "run"
    assert main(["run", str(plan), "-o", str(output), "--checkpoint", str(tmp_path / "saved"), "--print-launch"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("#!/bin/bash\n# Without Slurm")
    assert f"-m meshwright run {plan} --output {output}" in printed
    assert "--print-launch" not in printed
    assert not output.exists()
