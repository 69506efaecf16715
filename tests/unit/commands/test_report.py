from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner import report as report_module
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan


@pytest.fixture
def plan_file(tiny_plan: Plan, tmp_path: Path) -> Path:
    write_plan(tiny_plan, tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_a_page_is_written(plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(plan_file), "-o", str(tmp_path / "report.html")]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"report written to {tmp_path / 'report.html'}\n"
    assert captured.err == ""
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--help"]) == 0
    assert "meshwright report plan.json -o report.html" in capsys.readouterr().out


def test_an_output_is_required(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(plan_file)]) == 2
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "words"),
    [(".", "it is a directory"), ("no/report.html", "there is no directory"), ("plan.json", "is the plan itself")],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(
    plan_file: Path,
    tmp_path: Path,
    output: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report_module, "write_report", lambda *_: pytest.fail("work was done"))
    before = plan_file.read_bytes()
    assert main(["report", str(plan_file), "-o", str(tmp_path / output)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert plan_file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), ("{", "not JSON"), ("{}", "schema_version: missing")],
)
def test_a_plan_that_is_none_is_refused(
    content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_text(content)
    assert main(["report", str(path), "-o", str(tmp_path / "report.html")]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()
