from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """A plan that Megatron-LM can run."""
    path = tmp_path / "plan.json"
    workload = ["--cluster", "h100", "--gpus", "8", "--global-batch", "16", "--seq-len", "4096", "--top", "0"]
    choices = ["--runtime", "megatron", "--fix", "tp=2,pp=1,sp=1,recompute=none"]
    assert main(["plan", "llama-3.2-1b", *workload, *choices, "-o", str(path)]) == 0
    return path


def test_the_script_goes_to_stdout_and_notes_to_stderr(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["export", str(plan_file), "--to", "megatron"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("#!/usr/bin/env bash\n# llama-3.2-1b on 8 GPUs (h100)")
    assert captured.err.startswith("step: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(("to", "name"), [("megatron", "train.sh"), ("torchtitan", "train.toml")])
def test_a_file_is_written_and_checked(plan_file: Path, to: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = plan_file.parent / name
    capsys.readouterr()
    assert main(["export", str(plan_file), "--to", to, "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"exported to {output}\n"
    assert main(["check", "--from", to, str(output), "--cluster", "h100", "--gpus", "8", "--no-search"]) == 0
    assert sorted(path.name for path in plan_file.parent.iterdir()) == sorted(["plan.json", name])


def test_json_has_text_differences_and_predictions(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["export", str(plan_file), "--to", "torchtitan", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["framework"] == "torchtitan"
    assert said["version"].startswith("pytorch/torchtitan")
    assert "[parallelism]" in said["text"]
    assert said["step_time_s"] > 0
    assert said["plan_step_time_s"] > 0
    assert any("ZeRO-1 in the plan, ZeRO-2 in torchtitan" in line for line in said["differences"])


def test_the_plan_itself_is_not_overwritten(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = plan_file.read_bytes()
    assert main(["export", str(plan_file), "--to", "megatron", "-o", str(plan_file)]) == 2
    assert "is the plan itself" in capsys.readouterr().err
    assert plan_file.read_bytes() == before


def test_bad_input_is_one_line(tiny_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    write_plan(tiny_plan, path)
    for arguments, words in (
        ([str(path), "--to", "deepspeed"], "--to: deepspeed: is unknown; expected megatron or torchtitan"),
        ([str(tmp_path / "no.json"), "--to", "megatron"], "no such file"),
        ([str(path), "--to", "megatron", "-o", str(tmp_path / "no" / "x.sh")], "there is no directory"),
        ([str(path)], "--to"),
    ):
        assert main(["export", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert words in captured.err
        assert captured.err.count("\n") == 1


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    assert "meshwright export plan.json --to megatron -o train.sh" in capsys.readouterr().out
