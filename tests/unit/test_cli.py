"""The command line's frame: help, version, and how errors become one line and an exit status."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Annotated

import pytest
import typer

import meshwright
from meshwright import cli
from meshwright.costmodel.errors import InfeasibleError, ModelError


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a command `fail` that raises the exception named by its argument."""
    module = ModuleType("failing_command")
    raised: dict[str, BaseException] = {
        "input": ModelError("config.json", "hidden_size", "-1 is not\na positive whole number"),
        "infeasible": InfeasibleError("stage 3 needs 12 GiB more than the 70 GiB that fit"),
        "interrupt": KeyboardInterrupt(),
        "bug": ZeroDivisionError(),
    }

    def command(kind: Annotated[str, typer.Argument()], count: Annotated[int, typer.Option(min=1)] = 1) -> None:
        """Fail on purpose."""
        if count == 1:
            raise raised[kind]
        raise typer.Exit(count)

    module.command = command  # type: ignore[attr-defined]  # a module made for this test
    monkeypatch.setitem(sys.modules, "failing_command", module)
    monkeypatch.setitem(cli.COMMANDS, "fail", cli.CommandEntry(module="failing_command", summary="Fail on purpose."))


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_lists_every_command_with_its_summary(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    for name, entry in cli.COMMANDS.items():
        assert f"  {name} " in printed
        assert entry.summary in printed
    assert "Examples:" in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"meshwright {meshwright.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["models", "--nonsense"], "--nonsense"),
        (["models", "surplus"], "surplus"),
        (["fail"], "kind"),
        (["fail", "input", "--count", "many"], "--count"),
        (["fail", "input", "--count", "0"], "--count"),
    ],
)
@pytest.mark.usefixtures("failing_command")
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("meshwright: error: ")
    assert err.count("\n") == 1
    assert word.lower() in err.lower()  # older releases of typer write KIND


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("input", 2, "meshwright: error: config.json: hidden_size: -1 is not a positive whole number\n"),
        ("infeasible", 1, "meshwright: stage 3 needs 12 GiB more than the 70 GiB that fit\n"),
    ],
)
@pytest.mark.usefixtures("failing_command")
def test_our_errors_become_a_message(kind: str, status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fail", kind]) == status
    assert capsys.readouterr() == ("", message)


@pytest.mark.usefixtures("failing_command")
def test_an_interrupt_is_130() -> None:
    assert cli.main(["fail", "interrupt"]) == 130


@pytest.mark.usefixtures("failing_command")
def test_a_command_may_choose_its_status() -> None:
    assert cli.main(["fail", "input", "--count", "7"]) == 7


@pytest.mark.usefixtures("failing_command")
def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.main(["fail", "bug"])
