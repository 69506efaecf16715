"""Tests stand where their module's layer does, and every file is named after what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "src" / "meshwright"
KINDS = {"architecture", "integration", "property", "unit"}
VAGUE_NAMES = {"common", "helpers", "misc", "util", "utils"}


def _unit_tests() -> list[Path]:
    return sorted(path.relative_to(TESTS / "unit") for path in (TESTS / "unit").rglob("test_*.py"))


def _names(folder: Path) -> set[str]:
    """The modules and packages in a folder and below."""
    return {path.stem for path in folder.resolve().rglob("*") if path.suffix == ".py" or path.is_dir()}


def _module_names(test: Path) -> set[str]:
    """The modules a test file may mean: test_flops_moe.py holds a part of the tests of flops."""
    words = test.stem.removeprefix("test_").split("_")
    return {"_".join(words[:count]) for count in range(1, len(words) + 1)}


@pytest.mark.parametrize("test", _unit_tests(), ids=str)
def test_unit_test_names_a_module_of_its_folder(test: Path) -> None:
    assert _module_names(test) & _names(PACKAGE / test.parent), f"nothing in {test.parent} is tested by {test.name}"


def test_every_test_is_of_a_known_kind() -> None:
    assert {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")} <= KINDS


def test_no_module_has_a_name_that_says_nothing() -> None:
    folders = [path for path in PACKAGE.iterdir() if path.is_dir()]
    assert set().union(*(_names(folder) for folder in folders)) & VAGUE_NAMES == set()
