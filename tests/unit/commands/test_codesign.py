from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner.codesign import evaluate as evaluate_module
from meshwright.planner.codesign.evaluate import ShapeTask
from meshwright.planner.codesign.outcome import ShapeOutcome

OPTIONS = ("--cluster", "h100", "--gpus", "8", "--global-batch", "16", "--seq-len", "2048", "--workers", "1")
QUESTION = ("--hold", "parameters", "--vary", "experts=4,8", "--vary", "heads=8,6")


@pytest.fixture
def model_file(tmp_path: Path, tiny_config: dict[str, object]) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_config))
    return str(path)


def test_a_table_with_the_front_and_what_has_no_plan(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codesign", model_file, *OPTIONS, *QUESTION]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "\x1b" not in captured.out
    lines = captured.out.splitlines()
    assert lines[0] == "Shapes of tiny"
    assert "  held      total parameters, 222.3 M within 2.0%, by expert-size rounded to a multiple of 128" in lines
    assert "  varied    experts 4, 8; heads 8, 6" in lines
    assert "Best plan of each shape" in lines
    (base,) = [line for line in lines if line.startswith(" * base")]
    assert base.split()[2:5] == ["8", "8", "2048"]
    assert "Shapes without a plan: 2" in lines
    assert sum("illegal   num_kv_heads: 4 does not divide num_heads 6" in line for line in lines) == 2


def test_json_csv_and_plot_say_the_same(model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, plot = tmp_path / "shapes.csv", tmp_path / "shapes.png"
    arguments = ["codesign", model_file, *OPTIONS, *QUESTION, "--json", "--csv", str(table), "--plot", str(plot)]
    assert main([*arguments, "--tokens", "2e12"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    study = json.loads(captured.out)
    assert [shape["status"] for shape in study["shapes"]] == ["planned", "planned", "illegal", "illegal"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["shape"] for row in rows] == [shape["name"] for shape in study["shapes"]]
    assert [row["front"] for row in rows] == [shape["front"] for shape in study["shapes"]] == ["on", "on", "", ""]
    assert [float(row["step_time_s"]) for row in rows[:2]] == [
        shape["plan"]["step_time_s"] for shape in study["shapes"][:2]
    ]
    assert (rows[2]["step_time_s"], rows[2]["reason"]) == ("", "num_kv_heads: 4 does not divide num_heads 6")
    days = 2e12 / float(rows[0]["tokens_per_s"]) / 86400
    assert days < float(rows[0]["days"]) < 1.01 * days  # one node seldom fails
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shapes.csv", "shapes.png", "tiny.json"]


def test_an_interrupt_writes_what_is_done_and_ends_with_130(
    model_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluate_module.evaluate

    def interrupted(task: ShapeTask) -> ShapeOutcome:
        if not task.shape.is_base:
            raise KeyboardInterrupt
        return whole(task)

    monkeypatch.setattr("meshwright.planner.codesign.study.evaluate", interrupted)
    table = tmp_path / "shapes.csv"
    assert main(["codesign", model_file, *OPTIONS, *QUESTION, "--csv", str(table)]) == 130
    captured = capsys.readouterr()
    assert "PARTIAL: interrupted after 1 of 4 shapes" in captured.out
    assert captured.err == "meshwright: interrupted: 1 of 4 shapes\n"
    assert [row["status"] for row in csv.DictReader(table.read_text().splitlines())] == [
        "planned",
        "not done",
        "not done",
        "not done",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--vary", "expert=4"), "--vary: expert: unknown size; did you mean experts?"),
        (("--vary", "layers=2,wide"), "--vary: layers: 'wide' is not a positive whole number"),
        (("--vary", "experts=4", "--adjust", "experts"), "--adjust: experts: is varied as well (--vary)"),
        (("--vary", "experts=4", "--hold", "cost"), "--hold: 'cost' is unknown; expected one of parameters"),
        (("--vary", "experts=4", "--capacity", "parameters"), "--capacity: parameters: is what is held"),
        (("--vary", "experts=4", "--multiple", "0"), "--multiple: 0 is not a positive whole number"),
        (("--vary", "experts=4", "--tolerance", "2"), "--tolerance: 2 is not a share between 0 and 1"),
        (("--vary", "experts=4", "--workers", "0"), "--workers: 0 is not a positive whole number"),
        (("--vary", "experts=4", "--tokens", "-1"), "--tokens: -1 is not a number of tokens"),
        (("--vary", "experts=4", "--fix", "tp=3"), "--fix: tp=3: cannot split 8 heads"),
        (("--vary", "experts=4", "--csv", "nowhere/t.csv"), "nowhere/t.csv: cannot be written: there is no directory"),
        (("--vary", "experts=4", "--plot", "shapes.svg"), "--plot: shapes.svg: is no PNG file"),
        (("--vary", "experts=4", "--plot", "a.png", "--csv", "a.png"), "--csv: a.png: is the file of --plot as well"),
        (("--vary", f"layers={','.join(map(str, range(1, 300)))}"), "--vary: 299 shapes (299 layers), each a search"),
    ],
)
def test_bad_input_is_one_line_before_any_search(
    model_file: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    searched: list[ShapeTask] = []
    monkeypatch.setattr("meshwright.planner.codesign.study.evaluate", searched.append)
    assert main(["codesign", model_file, *OPTIONS, "--hold", "parameters", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"meshwright: error: {expected}")
    assert captured.err.count("\n") == 1
    assert searched == []
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


def test_the_outputs_are_checked_for_a_read_only_file(
    model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("precious")
    table.chmod(0o444)
    assert main(["codesign", model_file, *OPTIONS, *QUESTION, "--csv", str(table)]) == 2
    assert "cannot be written: it is read-only" in capsys.readouterr().err
    assert table.read_text() == "precious"
