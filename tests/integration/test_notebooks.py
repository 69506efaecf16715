"""The notebooks run, and what they show is what is saved in them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTE = ROOT / "scripts" / "execute_notebooks.py"
MAX_BYTES = 300_000
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _read(path: Path) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def _check(path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, str(EXECUTE), "--check", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"paper", "plan_352b", "what_ifs"}


@each_notebook
def test_it_runs_and_shows_what_is_saved(path: Path) -> None:
    done = _check(path)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun scripts/notebooks and look at the differences"
    assert done.stdout == f"{path.name}: up to date\n"


@each_notebook
def test_it_imports_and_never_defines(path: Path) -> None:
    for cell in _read(path).cells:
        if cell.cell_type == "code":
            found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, DEFINITIONS)]
            assert found == [], cell.source


@each_notebook
def test_it_can_be_read_without_running(path: Path) -> None:
    notebook = _read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < MAX_BYTES
    numbers = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert numbers == list(range(1, len(numbers) + 1))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert "\x1b" not in path.read_text(encoding="utf-8")


def test_a_stale_figure_and_a_failing_cell_are_noticed(tmp_path: Path) -> None:
    stale = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    stale.cells = [nbformat.v4.new_code_cell("print(6 * 7)", execution_count=1)]  # type: ignore[no-untyped-call]
    stale.cells[0].outputs = [nbformat.v4.new_output("stream", text="41\n")]  # type: ignore[no-untyped-call]
    path = tmp_path / "stale.ipynb"
    nbformat.write(stale, path)  # type: ignore[no-untyped-call]
    done = _check(path)
    assert done.returncode == 1
    assert {"-41", "+42"} <= set(done.stdout.splitlines())
    stale.cells[0].source = "1 / 0"
    nbformat.write(stale, path)  # type: ignore[no-untyped-call]
    done = _check(path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
