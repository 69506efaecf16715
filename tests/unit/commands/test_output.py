from __future__ import annotations

import json

import pytest

from meshwright.commands.output import build_table, print_json, print_table


def test_json_is_one_indented_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"rows": [1, 2.5], "text": "ü"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"rows": [1, 2.5], "text": "ü"}
    assert '\n  "rows"' in printed


def test_numbers_are_aligned_right_and_words_left() -> None:
    table = build_table(("name", "count", "speed"), [("a", "12", "fast"), ("b", "-", "9")])
    assert [column.justify for column in table.columns] == ["left", "right", "left"]


def test_text_in_brackets_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", ("memory [GB]", "name"), [("80", "[bold]x")])
    printed = capsys.readouterr().out
    assert "[GB]" in printed
    assert "[bold]x" in printed


def test_a_narrow_terminal_never_cuts_a_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    figures = tuple(f"{index}00.25" for index in range(1, 9))
    print_table("title", ("name", *(f"a long heading {index}" for index in range(8))), [("a-long-name", *figures)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a-long-name", *figures] in lines
