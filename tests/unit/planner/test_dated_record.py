"""Records of drivers say how they were made, are written whole, and a wrong one is refused in a line."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest

import meshwright
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.dated_record import exit_status, origin_of, read_record, read_version, write_record


class Found(Value, frozen=True, kw_only=True):
    """A record of a driver."""

    schema_version: int
    times_s: tuple[float, ...]


def test_the_head_says_how_a_record_was_made(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/driver.py", "--only", "two words"])
    head = origin_of(str(repository / "benchmarks" / "planning.py")).head
    assert list(head) == ["command", "date", "version", "commit"]
    assert head["command"] == "python benchmarks/planning.py --only 'two words'"
    assert head["version"] == meshwright.__version__
    assert datetime.fromisoformat(str(head["date"])).tzinfo is not None
    assert re.fullmatch(r"([0-9a-f]{12}\+?)?", str(head["commit"]))


def test_outside_of_a_clone_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert origin_of(str(tmp_path / "driver.py")).commit == ""


def test_records_come_back(tmp_path: Path) -> None:
    record, path = Found(schema_version=1, times_s=(1e-5, 0.1)), tmp_path / "r.json"
    for indent in (0, 1):
        write_record(record, path, indent=indent)
        assert read_version(path, Found, 1) == record
        assert json.loads(path.read_text()) == {"schema_version": 1, "times_s": [1e-5, 0.1]}
    assert path.read_text().startswith('{\n "schema_version": 1,\n')
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is no record of a run"),
        ('{"schema_version": 1}', "is no record of a run: .*times_s"),
        ('{"schema_version": 2, "times_s": []}', "schema_version: is 2, expected 1"),
    ],
)
def test_another_record_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(InputError, match=problem):
        read_version(path, Found, 1)


def test_a_missing_record_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        read_record(tmp_path / "none.json", Found)
        return 0

    assert exit_status(main, "benchmarks/driver.py") == 2
    assert capsys.readouterr().err == f"driver: {tmp_path / 'none.json'}: cannot be read: No such file or directory\n"


def test_every_driver_makes_its_head_here(repository: Path) -> None:
    drivers = [path for path in (repository / "benchmarks").glob("*.py") if path.with_suffix(".json").exists()]
    assert drivers
    for driver in drivers:
        text = driver.read_text()
        assert "origin_of(__file__)" in text, driver
        assert "datetime" not in text, driver
