from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner.serialise import read_plan

SMALL = (
    "--num-layers 8 --hidden-size 2048 --num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048"
    " --micro-batch-size 1 --global-batch-size 32 --vocab-size 32000 --bf16 --swiglu"
)
OPTIONS = ("--cluster", "h100", "--no-search")


def run(*arguments: str) -> int:
    return main(["check", "--from", "megatron", *arguments, *OPTIONS])


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.sh"
    path.write_text(f"TP=${{TP:-1}}\ntorchrun --nproc_per_node 8 x.py {SMALL} --tensor-model-parallel-size $TP\n")
    return str(path)


def test_quoted_arguments_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SMALL, "--gpus", "8") == 0
    output = capsys.readouterr().out
    for words in ("legal       yes", "fits        yes", "step time", "Memory of each stage", "Where the step goes"):
        assert words in output


def test_a_script_says_how_many_gpus_and_takes_variables_and_more_options(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, "--env", "TP=2", "--add", "--micro-batch-size 2", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["num_gpus"] == 8
    assert printed["run"]["mesh"]["tp"] == 2
    assert printed["run"]["pipeline"]["micro_batch"] == 2
    assert (printed["legal"], printed["fits"], printed["best"]) == (True, True, None)


def test_what_is_illegal_or_too_large_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{SMALL} --tensor-model-parallel-size 3", "--gpus", "8") == 1
    assert "tp divides the attention heads; here 16 heads, tp 3" in capsys.readouterr().out
    assert run(f"{SMALL} --micro-batch-size 32 --num-layers 80 --global-batch-size 256", "--gpus", "8", "--json") == 1
    assert json.loads(capsys.readouterr().out)["fits"] is False


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nowhere.sh", "--gpus", "8"), "nowhere.sh: cannot be read, and does not begin with an option"),
        ((SMALL,), "--gpus: is missing"),
        ((SMALL, "--gpus", "8", "--env", "TP"), "expected NAME=VALUE"),
        (("--num-layers x", "--gpus", "8"), "'x' is not a whole number"),
        ((SMALL, "--gpus", "8", "-o", "/nowhere/plan.json"), "/nowhere"),
    ],
)
def test_what_cannot_be_read_exits_with_2_and_one_line(
    arguments: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert problem in captured.err
    assert captured.err.count("\n") == 1


def test_an_unknown_framework(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--from", "nemo", SMALL, "--cluster", "h100", "--gpus", "8"]) == 2
    assert "expected megatron or torchtitan" in capsys.readouterr().err


def test_the_configuration_is_written_as_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    assert run(SMALL, "--gpus", "8", "-o", str(path)) == 0
    assert f"plan written to {path}" in capsys.readouterr().out
    plan = read_plan(path)
    assert plan.mesh.dp == 8
    assert main(["simulate", str(path)]) == 0


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    output = capsys.readouterr().out
    assert "Examples:" in output
    assert "meshwright check --from torchtitan llama3_70b.toml" in output
