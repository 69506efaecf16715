from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.planner.validation.rows import packaged_path

KEYS = {"id", "predicted_tokens_per_s_per_gpu", "measured_tokens_per_s_per_gpu", "error", "status", "reason"}
FIGURES = {"rows", "predicted", "mape", "median_ape", "p90_ape", "bias"}


@pytest.fixture
def few_rows(tmp_path: Path) -> Path:
    """Five packaged rows, one of them made absurd and one of another GPU."""
    lines = packaged_path().read_text(encoding="utf-8").splitlines()
    chosen = [lines[0], *lines[1:6]]
    chosen[2] = chosen[2].replace("h100-sxm", "b200-sxm")
    chosen[3] = chosen[3].replace(",8192,", ",-8192,", 1)
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return path


def test_json_has_the_stable_keys(few_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--against", str(few_rows), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert all(set(row) >= KEYS for row in printed["rows"])
    assert [row["status"] for row in printed["rows"]] == ["predicted", "unsupported", "invalid", *["predicted"] * 2]
    assert all(row["reason"] for row in printed["rows"] if row["status"] != "predicted")
    assert set(printed["summary"]) >= FIGURES | {"by_kind", "by_framework"}
    assert (printed["summary"]["rows"], printed["summary"]["predicted"]) == (5, 3)
    assert set(printed["summary"]["by_kind"]["moe"]) == FIGURES


def test_tables_name_every_row_that_is_not_predicted(few_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--against", str(few_rows)]) == 0
    printed = capsys.readouterr().out
    assert "Not predicted: 2" in printed
    assert "'b200-sxm' is unknown" in printed
    assert "lie in their 90 % interval" in printed


def test_plot_is_written(few_rows: Path, tmp_path: Path) -> None:
    assert main(["validate", "--against", str(few_rows), "--plot", str(tmp_path / "plot.png"), "--json"]) == 0
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--against", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--plot", "no/such/folder/plot.png"], "plot.png: cannot be written"),
    ],
)
def test_bad_files_are_one_line_and_exit_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert output.err.count("\n") == 1


def test_a_missing_column_is_named(few_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = few_rows.read_text(encoding="utf-8")
    few_rows.write_text(text.replace("precision", "accuracy", 1), encoding="utf-8")
    assert main(["validate", "--against", str(few_rows)]) == 2
    assert "lacks the column precision" in capsys.readouterr().err


def test_operators_are_judged_by_shapes_kept_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--operators"]) == 0
    printed = capsys.readouterr().out
    assert "product bf16" in printed
    assert "5%, 15%: kept" in printed
    assert "Published micro-benchmarks" in printed
    assert main(["validate", "--operators", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    errors = {part["family"]: part for part in found["measured"][0]["errors"]}
    assert errors["product bf16"]["median_ape"] < 0.05
    assert errors["grouped product bf16"]["median_ape"] < 0.05
    assert len(found["published"]) > 20


def test_bad_measurements_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"schema_version": 0}')
    assert main(["validate", "--operators", "--measurements", str(path)]) == 2
    assert "schema_version: 0; expected 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranking", "--against", "mine.csv"], "--against: does nothing with --ranking"),
        (["--operators", "--fit"], "--fit: does nothing with --operators"),
        (["--operators", "--ranking"], "--ranking: does nothing with --operators"),
        (["--measurements", "mine.json"], "--measurements: goes with --operators"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", *arguments]) == 2
    assert message in capsys.readouterr().err
