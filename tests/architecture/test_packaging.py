"""The layers are the root folders, under our own name, and planning never loads torch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import meshwright

PLANNING_LAYERS = ("costmodel", "hardware_profiles", "planner")
LAYERS = (*PLANNING_LAYERS, "kernels", "executor")
HEAVY = ("highspy", "matplotlib", "networkx", "numpy", "pulp", "rich", "torch", "yaml")


def _modules_after(repository: Path, code: str) -> set[str]:
    """The modules a fresh interpreter has loaded after `code`, started in the root like a user's."""
    script = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=repository, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_is_a_relative_link_to_the_root_folder(repository: Path, layer: str) -> None:
    link = repository / "src" / "meshwright" / layer
    assert link.is_symlink(), f"{link} must be a symbolic link: clone with core.symlinks=true"
    assert link.readlink() == Path("..") / ".." / layer
    module = importlib.import_module(f"meshwright.{layer}")
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == repository / layer / "__init__.py"


def test_every_root_folder_of_code_is_linked(repository: Path) -> None:
    links = {path.name for path in (repository / "src" / "meshwright").iterdir() if path.is_symlink()}
    folders = {path.parent.name for path in repository.glob("*/__init__.py")}
    assert links == folders


@pytest.mark.parametrize("name", LAYERS)
def test_bare_names_are_not_ours(repository: Path, name: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=repository, capture_output=True, text=True, check=True
    )
    assert str(repository) not in done.stdout


@pytest.mark.parametrize("module", ["meshwright", *(f"meshwright.{layer}" for layer in PLANNING_LAYERS)])
def test_planning_layers_do_not_load_torch(repository: Path, module: str) -> None:
    assert not _modules_after(repository, f"import {module}") & {"torch", "triton"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["models", "--help"], ["profile", "--help"], ["kernels", "--help"]]
)
def test_help_loads_nothing_heavy(repository: Path, arguments: list[str]) -> None:
    modules = _modules_after(repository, f"from meshwright.cli import main; assert main({arguments!r}) == 0")
    assert not modules & set(HEAVY)
    assert not any(name.startswith(tuple(f"meshwright.{layer}" for layer in LAYERS[1:])) for name in modules)


def test_the_survey_of_a_profile_does_not_load_torch(repository: Path) -> None:
    code = "from meshwright.executor.measure_hardware import Extent, build_survey as b\n"
    assert not _modules_after(repository, code + "b(Extent.FULL, num_gpus=2, gpus_per_node=2)") & {"torch", "triton"}


def test_profile_needs_no_solver(repository: Path) -> None:
    code = "import meshwright.commands.profile, meshwright.executor.measure_hardware.driver"
    assert not _modules_after(repository, code) & {"pulp", "highspy"}


def test_the_changelog_knows_this_version(repository: Path) -> None:
    assert f"## {meshwright.__version__}" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_data_file_is_packaged(repository: Path) -> None:
    configuration = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = configuration["tool"]["setuptools"]["package-data"]["*"]
    files = [path for layer in LAYERS for path in (repository / layer).rglob("*") if path.is_file()]
    data = [path for path in files if path.suffix not in {".py", ".pyc"}]
    assert [path for path in data if not any(path.match(pattern) for pattern in patterns)] == []


def test_every_folder_with_files_is_a_package(repository: Path) -> None:
    folders = {path.parent for layer in LAYERS for path in (repository / layer).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
