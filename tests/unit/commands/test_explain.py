from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from meshwright.cli import main
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

WIDTH = 132


@pytest.fixture
def plan_file(tiny_plan: Plan, tmp_path: Path) -> str:
    write_plan(tiny_plan, tmp_path / "plan.json")
    return str(tmp_path / "plan.json")


def test_the_summary(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", plan_file]) == 0
    printed = capsys.readouterr().out
    for title in (
        "The path that decides the step",
        "Where the step goes",
        "operators that take most",
        "Communication inside layers",
        "Memory of stage",
        "Assumptions in force",
        "Formulas",
        "What a little more would save, this plan held",
    ):
        assert title in printed
    assert max(map(len, printed.splitlines())) <= WIDTH


def test_json_has_every_term(plan_file: str, tiny_plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", plan_file, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    step_s = tiny_plan.prediction.step_time_s
    assert data["prediction"]["step_time_s"] == step_s
    assert sum(term["total_s"] for term in data["path"]["terms"]) == pytest.approx(step_s, rel=1e-12)
    assert data["prediction"]["peak_memory_bytes"] == list(tiny_plan.prediction.peak_memory_bytes)
    assert [stage["peak_bytes"] for stage in data["stages"]] == pytest.approx(tiny_plan.prediction.peak_memory_bytes)
    assert data["formulas"]["matmul.gemm_flops"]["equation"] == "2 m n k."
    assert {"held_saving_s", "held_per_unit_s", "unit"} <= data["marginal"]["values"][0].keys()


@pytest.mark.parametrize("option", [["--full"], ["--layer", "3"], ["--stage", "1"]])
def test_more_of_it(plan_file: str, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", plan_file, *option]) == 0
    assert capsys.readouterr().out


def test_json_of_one_layer_has_that_part(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", plan_file, "--layer", "0", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [part["layers"] for part in data["parts"]] == [[0, 1, 2]]


def test_why_not(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", plan_file, "--why-not", "ep=3"]) == 0
    assert "ep=3: does not divide 8 experts; ep can be 1, 2, 4, 8" in capsys.readouterr().out
    assert main(["explain", plan_file, "--why-not", "tp=8", "--why-not", "mbs=1", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["asked"] == "tp=8 mbs=1"
    assert data["verdict"] in ("slower", "faster", "as fast, within the gap")
    assert data["best"]["step_s"]["more"] == data["best"]["step_s"]["other"] - data["best"]["step_s"]["one"]


def test_diff(plan_file: str, tiny_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = msgspec.structs.replace(tiny_plan.cluster, nvlink_bytes_per_s=200e9)
    other = tmp_path / "slower.json"
    write_plan(msgspec.structs.replace(tiny_plan, cluster=cluster), other)
    assert main(["explain", plan_file, "--diff", str(other)]) == 0
    printed = capsys.readouterr().out
    assert "gpu.nvlink_bytes_per_s" in printed
    assert "slower.json" in printed
    assert main(["explain", plan_file, "--diff", str(other), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["step_s"]["more"] > 0
    assert data["inputs"] == [{"name": "gpu.nvlink_bytes_per_s", "one": "450 GB/s", "other": "200 GB/s"}]


def test_marginal_says_what_is_within_the_gap(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", plan_file, "--marginal"]) == 0
    printed = capsys.readouterr().out
    assert "What a little more would save, planned again for it" in printed
    assert "lower bound" in printed


def test_a_changed_profile_is_noted(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(plan_file)
    path.write_text(path.read_text().replace('"profile_hash": "', '"profile_hash": "0'))
    assert main(["explain", plan_file]) == 0
    assert "note: the profile h100 changed since this plan was made" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--why-not", "recomputes=sar"], "--why-not: recomputes: unknown choice; did you mean recompute?"),
        (["--why-not", "ep=eight"], "--why-not: ep: 'eight' is not a positive whole number"),
        (["--why-not", "ep"], "--why-not: ep: expected key=value, for example tp=8"),
        (["--layer", "4"], "--layer: 4 is not one of the 4 there are; expected 0 to 3"),
        (["--stage", "-1"], "--stage: -1 is not one of the 2 there are; expected 0 to 1"),
        (["--full", "--marginal"], "--full: cannot be given together with --marginal; ask one at a time"),
        (["--layer", "0", "--stage", "0"], "--layer: cannot be given together with --stage; ask one at a time"),
        (
            ["--why-not", "ep=2", "--diff", "x.json", "--marginal"],
            "--why-not: cannot be given together with --diff, --marginal; ask one at a time",
        ),
        (["--diff", "absent.json"], "absent.json: no such file, expected a plan written by `meshwright plan -o`"),
    ],
)
def test_bad_input_is_one_line(
    plan_file: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", plan_file, *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"meshwright: error: {message}\n")


def test_a_layer_is_a_number(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", plan_file, "--layer", "x"]) == 2
    assert "Invalid value for '--layer'" in capsys.readouterr().err


def test_a_plan_of_another_version_is_refused(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(plan_file)
    data = json.loads(path.read_text()) | {"schema_version": 99}
    path.write_text(json.dumps(data))
    assert main(["explain", plan_file]) == 2
    assert "schema_version: 99; this meshwright reads version" in capsys.readouterr().err


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text("{")
    assert main(["explain", str(tmp_path / "plan.json")]) == 2
    assert "not JSON" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "absent.json")]) == 2
    assert "no such file" in capsys.readouterr().err
