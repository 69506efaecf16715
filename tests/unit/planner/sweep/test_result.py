from __future__ import annotations

import csv
from io import StringIO

import msgspec
import pytest

from meshwright.planner.plan import Plan
from meshwright.planner.sweep import SweepResult, sweep


@pytest.fixture
def result(tiny_plan: Plan) -> SweepResult:
    return sweep(tiny_plan, {"nvlink_bytes_per_s": [3e11, 4.5e11], "top_k": [2, 9]})


def test_the_table_has_a_cell_for_each_column(result: SweepResult) -> None:
    assert all(len(row) == len(result.columns) for row in result.table())
    first = dict(zip(result.columns, result.table()[2], strict=True))
    assert first["cluster.nvlink_bytes_per_s"] == 4.5e11
    assert first["step_time_s"] == result.planned.step_time_s
    assert first["change_of_step_time_fraction"] == 0.0


def test_csv_has_every_digit(result: SweepResult) -> None:
    rows = list(csv.DictReader(StringIO(result.to_csv().decode())))
    assert [row["model.top_k"] for row in rows] == ["2", "9", "2", "9"]
    assert float(rows[2]["step_time_s"]) == result.planned.step_time_s
    assert (rows[1]["step_time_s"], rows[1]["reason"]) == ("", "moe top_k: 9 is more than num_experts 8")


def test_a_dataframe_has_the_same_columns(result: SweepResult) -> None:
    frame = result.to_dataframe()
    assert list(frame.columns) == list(result.columns[1:])
    assert frame.loc[2, "step_time_s"] == result.planned.step_time_s
    assert frame["step_time_s"].isna().tolist() == [False, True, False, True]
    assert frame["fits"].tolist() == [True, None, True, None]


def test_json_gives_the_result_back(result: SweepResult) -> None:
    assert msgspec.json.decode(msgspec.json.encode(result), type=SweepResult) == result


def test_replanned_rows_tell_both_choices(tiny_plan: Plan) -> None:
    result = sweep(tiny_plan, {"nvlink_bytes_per_s": ["0.5x"]}, replan=True)
    row = dict(zip(result.columns, result.table()[0], strict=True))
    assert isinstance(row["held_step_time_s"], float)
    assert isinstance(row["step_time_s"], float)
    assert row["step_time_s"] <= row["held_step_time_s"]
    assert row["gap"] == result.rows[0].gap
