"""The built library on a torch without CUDA: it loads, its operators are there and refuse CPU tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.kernels.build import BuiltLibrary
from meshwright.kernels.catalogue import NAMESPACE, operator_names

SCRIPT = f"""
import json, sys, torch
from meshwright.kernels.build.cache import built_library
from meshwright.kernels.library import load
load(built_library())
operators = getattr(torch.ops, {NAMESPACE!r})
schemas = {{name: str(getattr(operators, name).default._schema) for name in sys.argv[1:]}}
rows, places, numbers = torch.empty(2, 8), torch.zeros(2, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
try:
    operators.gather_sum(rows, None, None, places, numbers, numbers, torch.empty(2, 8), None, 0)
    refused = ""
except NotImplementedError as problem:
    refused = str(problem)
print(json.dumps([schemas, refused]))
"""


@pytest.mark.nvcc
def test_the_library_loads_on_a_torch_without_cuda(built: BuiltLibrary, repository: Path) -> None:
    names = sorted(operator_names())
    settings = {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(repository / "src"),
        "MESHWRIGHT_KERNELS_LIBRARY": built.path,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    schemas, refused = json.loads(done.stdout)
    for name in names:
        assert schemas[name].startswith(f"{NAMESPACE}::{name}(")
        assert schemas[name].endswith(
            "int stream) -> ()"
        )  # results go to tensors of the caller, on the caller's stream
        assert "(a!)" in schemas[name]
    assert "CPU" in refused


@pytest.mark.nvcc
def test_the_library_needs_no_symbol_of_torch_with_cuda(built: BuiltLibrary) -> None:
    names = Path(built.path).read_bytes()
    for symbol in (b"aoti_torch_get_current_cuda_stream", b"torch_c10_cuda_check_msg", b"torch_exception_get_what"):
        assert symbol not in names
