"""Every formula says where it comes from and shows a worked example."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

import meshwright.costmodel.formulas as formulas


def _modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(formulas.__path__, f"{formulas.__name__}."):
        yield importlib.import_module(found.name)


def _public_functions() -> list[Callable[..., object]]:
    return [
        function
        for module in _modules()
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]


def test_there_are_formulas() -> None:
    assert _public_functions()


@pytest.mark.parametrize("formula", _public_functions(), ids=lambda formula: f"{formula.__module__}.{formula.__name__}")
def test_formula_has_source_and_example(formula: Callable[..., object]) -> None:
    text = inspect.getdoc(formula) or ""
    assert "Source:" in text, "the docstring needs a line 'Source: paper, equation' or 'Source: measured, <profile>'"
    assert ">>>" in text, "the docstring needs a worked example"


@pytest.mark.parametrize("module", list(_modules()), ids=lambda module: module.__name__)
def test_formula_modules_are_pure(module: ModuleType) -> None:
    mutable = [name for name, value in vars(module).items() if isinstance(value, list | set) and name != "__all__"]
    assert mutable == []
