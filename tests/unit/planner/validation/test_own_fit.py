"""A user's own table: what is said about it, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner.validation.rows import COLUMNS, RowText, packaged_path, read_table
from meshwright.planner.validation.trust import trust
from meshwright.planner.validation.validation import validate

ROWS = [text.cells for text in read_table(packaged_path()) if text.cells["model"] in ("mpt-1b", "mpt-3b")]
TORCHTITAN = [text for text in read_table(packaged_path()) if text.cells["model"] == "llama3-8b"][:1]


def write(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return path


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `meshwright validate`; gives its status and what it printed, messages included."""

    def run(*arguments: str) -> tuple[int, str]:
        status = main(["validate", *arguments])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def test_own_runs_are_judged_and_absurd_rows_listed(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", [*ROWS[:3], {**ROWS[0], "id": "odd", "gpus": "-1"}])
    code, output = run("--against", str(path), "--json")
    found = json.loads(output)
    assert code == 0
    assert [row["status"] for row in found["rows"]] == ["predicted"] * 3 + ["invalid"]
    assert "-1" in found["rows"][-1]["reason"]
    assert found["summary"]["rows"] == 4
    assert found["summary"]["held_out"]["predicted"] == 3
    assert "interval" in found["trust"]["verdict"]


def test_own_runs_can_be_fitted_with_folds(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", ROWS)
    before = packaged_path("fit.json").read_bytes()
    code, output = run("--against", str(path), "--fit", "--json")
    assert code == 0
    one = json.loads(output)["fit"]["fits"][0]
    assert one["fit"]["framework"] == "llm-foundry"
    assert {fold["held_out"] for fold in one["fit"]["folds"]} == {"mpt-1b", "mpt-3b"}
    assert one["fitted"]["median_ape"] <= one["shipped"]["median_ape"] + 0.01
    assert packaged_path("fit.json").read_bytes() == before


def test_one_model_is_folded_by_rows(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", [row for row in ROWS if row["model"] == "mpt-3b"] * 2)
    code, output = run("--against", str(path), "--fit", "--json")
    assert code == 0
    folds = json.loads(output)["fit"]["fits"][0]["fit"]["folds"]
    assert [fold["held_out"] for fold in folds] == [f"row {index}" for index in range(5)]


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([], COLUMNS, "has no row"),
        (ROWS[:1], tuple(name for name in COLUMNS if name != "gpus"), "lacks the column gpus"),
        (ROWS[:2], COLUMNS, "2 usable rows are too few to fit 3 parameters; expected at least 9"),
        ([{**ROWS[0], "model": "unheard-of"}], COLUMNS, "nothing can be fitted"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    run: Run, tmp_path: Path, rows: list[dict[str, str]], columns: tuple[str, ...], words: str
) -> None:
    code, output = run("--against", str(write(tmp_path / "mine.csv", rows, columns)), "--fit")
    assert code == 2
    assert words in output


def test_an_empty_file_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("")
    code, output = run("--against", str(tmp_path / "mine.csv"))
    assert code == 2
    assert "lacks the column" in output


def test_a_row_far_off_is_named_with_what_is_known() -> None:
    cells = {**TORCHTITAN[0].cells, "measured_tokens_per_s_per_gpu": "100", "recompute": "unknown"}
    table = (RowText(number=2, cells=cells),)
    found = trust(table, validate(table))
    assert found.inside == 0
    assert found.off[0].error > 1.0
    assert any("recomputation is not printed" in reason for reason in found.off[0].reasons)
    assert "Fewer than 5 runs" in found.verdict


def test_nothing_predicted_is_said() -> None:
    table = (RowText(number=2, cells={**TORCHTITAN[0].cells, "gpu": "b200"}),)
    assert "None of 1 runs" in trust(table, validate(table)).verdict
