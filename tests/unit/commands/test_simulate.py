from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan


@pytest.fixture
def plan_file(tiny_plan: Plan, tmp_path: Path) -> str:
    write_plan(tiny_plan, tmp_path / "plan.json")
    return str(tmp_path / "plan.json")


def test_a_plan_gives_its_own_prediction(plan_file: str, tiny_plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["prediction"] == data["planned"]
    assert data["prediction"]["step_time_s"] == tiny_plan.prediction.step_time_s
    assert (data["fits"], data["over_limit"], data["changes"], data["warnings"]) == (True, [], [], [])


def test_changes_are_in_the_json(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--set", "seq_len=4096", "--set", "network_bytes_per_s=2x", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["changes"] == [
        {"key": "cluster.network_bytes_per_s", "before": 50e9, "after": 100e9},
        {"key": "workload.seq_len", "before": 2048, "after": 4096},
    ]
    assert data["prediction"]["step_time_s"] > data["planned"]["step_time_s"]


def test_what_does_not_fit_is_an_answer(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--set", "usable_memory_bytes=2 GiB", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["fits"] is False
    assert data["over_limit"][0]["over_bytes"] > 0
    assert main(["simulate", plan_file, "--set", "usable_memory_bytes=2 GiB"]) == 0
    assert "does not fit: stage " in capsys.readouterr().out


def test_the_tables_show_both_predictions(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--set", "gpu=h800"]) == 0
    printed = capsys.readouterr().out
    assert "cluster.gpu: H100 SXM 80GB -> H800 SXM 80GB" in printed
    assert "step time" in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_a_warning_is_printed(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(plan_file)
    path.write_text(path.read_text().replace('"profile_hash": "', '"profile_hash": "0'))
    assert main(["simulate", plan_file, "--set", "seq_len=4096"]) == 0
    assert "note: the profile h100 changed since this plan was made" in capsys.readouterr().out


def test_an_unknown_key_is_one_line(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plan_file, "--set", "sequence_len=4096"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "meshwright: error: --set: sequence_len: unknown key; did you mean workload.seq_len?\n"
