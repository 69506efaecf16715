"""The names of `import meshwright`, which loads nothing until one of them is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import meshwright

HEAVY = ("torch", "pandas", "matplotlib", "numpy", "msgspec", "pulp", "highspy", "rich")


def _loaded(repository: Path, code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(repository / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_loads_nothing_heavy(repository: Path) -> None:
    assert not _loaded(repository, "import meshwright") & set(HEAVY)


def test_sweeping_loads_no_torch_pandas_or_matplotlib(repository: Path) -> None:
    assert not _loaded(repository, "import meshwright; meshwright.sweep") & {"torch", "pandas", "matplotlib"}


@pytest.mark.parametrize("name", [name for name in meshwright.__all__ if name != "__version__"])
def test_every_public_name_is_a_function_with_help(name: str) -> None:
    function = getattr(meshwright, name)
    assert callable(function)
    assert function.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        _ = meshwright.swep
