"""A checkpoint of two ranks is one of one rank, and the other way round, to the bit."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meshwright.executor.checkpoint.checkpointer import Checkpointer
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.layer.groups import ALONE

SCRIPT = Path(__file__).with_name("two_ranks.py")
MADE_UP = runpy.run_path(str(SCRIPT))


def _save_on_one_rank(folder: Path) -> None:
    checkpointer = Checkpointer(CheckpointFolder(path=folder))
    state, _ = MADE_UP["state_of"](ALONE, MADE_UP["full_state"]())
    checkpointer.save(state, MADE_UP["manifest"](9))
    checkpointer.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a checkpoint of one rank."""
    folder = tmp_path_factory.mktemp("checkpoints")
    _save_on_one_rank(folder / "of-one")
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, object]]:
    """What two ranks print."""
    source = str(Path(__file__).resolve().parents[4] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    commands = [[sys.executable, str(SCRIPT), str(rank), port, str(folder)] for rank in range(2)]
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for command in commands]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    return [json.loads(output) for output in outputs]


def test_two_ranks_save_and_load(found: list[dict[str, object]]) -> None:
    """EP, TP with copied heads, flat optimizer shards."""
    assert [rank["saved"] for rank in found] == ["", ""]
    assert [rank["loaded"] for rank in found] == [[5], [5]]


def test_one_rank_saves_and_two_load(found: list[dict[str, object]]) -> None:
    assert [rank["loaded of one"] for rank in found] == [[9], [9]]


@pytest.mark.usefixtures("found")
def test_two_ranks_save_and_one_loads(folder: Path) -> None:
    full = MADE_UP["full_state"]()
    state, own = MADE_UP["state_of"](ALONE, {name: torch.zeros_like(tensor) for name, tensor in full.items()})
    manifest = Checkpointer(CheckpointFolder(path=folder / "of-two")).load(state, MADE_UP["MODEL"])
    assert manifest is not None
    assert (manifest.step, manifest.data.next_step, manifest.extra) == (5, 5, {"loss": 2.5})
    assert (manifest.world_size, manifest.torch) == (2, str(torch.__version__))
    assert MADE_UP["wrong"](full, own, ALONE) == []


def test_a_failure_is_told_on_all_ranks_and_leaves_nothing(found: list[dict[str, object]], folder: Path) -> None:
    message = "checkpoint: moment.fc2: parts of 15 elements in all, expected 30"
    assert [rank["failed"] for rank in found] == [message, message]
    assert list((folder / "failed").iterdir()) == []


def test_what_any_rank_finds_damaged_all_pass_over(found: list[dict[str, object]], folder: Path) -> None:
    damaged = folder / "damaged" / "step-000000000002" / "__1_0.distcp"
    assert [rank["undamaged"] for rank in found] == [[1, f"skipped: {damaged}"], [1]]
