"""Checkpoints come back to the bit, appear whole, and say what is wrong with them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.checkpointer import Checkpointer
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.checkpoint.manifest import DataPosition, Manifest, read_manifest
from meshwright.executor.checkpoint.pieces import Piece, ShardedState, whole

RUN = Path(__file__).with_name("saving_run.py")


def _manifest(step: int) -> Manifest:
    data = DataPosition(source="uniform", seed=1, global_batch=1, seq_len=1, next_step=step)
    return Manifest(model="tiny", model_sha256="m", plan_sha256="p", step=step, data=data)


def _weights(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    formats = {"a": torch.float32, "b": torch.bfloat16, "c": torch.float64}
    return {name: torch.randn(4, 6, generator=generator).to(dtype) for name, dtype in formats.items()}


def _state(weights: dict[str, Tensor]) -> ShardedState:
    return ShardedState(whole(name, tensor) for name, tensor in weights.items())


def _saved(folder: Path, *steps: int, keep: int = 3) -> Checkpointer:
    checkpointer = Checkpointer(CheckpointFolder(path=folder, keep=keep))
    for step in steps:
        checkpointer.save(_state(_weights(step)), _manifest(step))
    checkpointer.wait()
    return checkpointer


def _load(folder: Path, path: Path | None = None, model: str = "m") -> tuple[Manifest | None, dict[str, Tensor]]:
    weights = {name: torch.zeros_like(tensor) for name, tensor in _weights(0).items()}
    return Checkpointer(CheckpointFolder(path=folder)).load(_state(weights), model, path), weights


def _assert_step(folder: Path, step: int) -> None:
    manifest, weights = _load(folder)
    assert manifest is not None
    assert manifest.step == step
    assert all(torch.equal(weights[name], tensor) for name, tensor in _weights(step).items())


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_comes_back_to_the_bit(tmp_path: Path) -> None:
    _saved(tmp_path / "new" / "folder", 1, 2)
    _assert_step(tmp_path / "new" / "folder", 2)


def test_an_older_one_can_be_named(tmp_path: Path) -> None:
    folder = _saved(tmp_path, 1, 2).folder
    manifest, weights = _load(tmp_path, folder.of_step(1))
    assert manifest is not None
    assert manifest.step == 1
    assert torch.equal(weights["a"], _weights(1)["a"])


def test_the_last_ones_stay(tmp_path: Path) -> None:
    _saved(tmp_path, 1, 20, 3, 100, keep=2)
    assert _names(tmp_path) == ["latest", "step-000000000020", "step-000000000100"]


def test_a_damaged_one_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    checkpointer = _saved(tmp_path, 1, 2, 3)
    next(checkpointer.folder.of_step(3).glob("*.distcp")).unlink()
    checkpointer = _saved(tmp_path, 4, keep=2)
    assert _names(tmp_path) == ["latest", "step-000000000002", "step-000000000004"]


def test_the_run_goes_on_while_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, write = threading.Event(), FileSystemWriter.write_data

    def slow(self: FileSystemWriter, *arguments: object) -> object:
        assert release.wait(30)
        return write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FileSystemWriter, "write_data", slow)
    weights = _weights(1)
    checkpointer = Checkpointer(CheckpointFolder(path=tmp_path))
    checkpointer.save(_state(weights), _manifest(1))
    weights["a"].zero_()  # the next step of training
    assert checkpointer.folder.latest() is None
    release.set()
    checkpointer.wait()
    _assert_step(tmp_path, 1)


def test_parts_are_loaded_into_views(tmp_path: Path) -> None:
    _saved(tmp_path, 1)
    target = torch.zeros(6, 4)
    piece = Piece(name="a", global_shape=(4, 6), offsets=(1, 2), tensor=target.t()[1:3, 2:5])
    Checkpointer(CheckpointFolder(path=tmp_path)).load(ShardedState([piece]), "m")
    expected = torch.zeros(4, 6)
    expected[1:3, 2:5] = _weights(1)["a"][1:3, 2:5]
    assert torch.equal(target.t(), expected)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert _load(tmp_path)[0] is None
    assert _load(tmp_path / "none")[0] is None


def test_another_model_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path, 1)
    with pytest.raises(
        InputError, match=r"step-000000000001: model_sha256: m, of tiny; expected other, this run's model"
    ):
        _load(tmp_path, model="other")


@pytest.mark.parametrize(
    ("piece", "problem"),
    [
        (whole("d", torch.zeros(4, 6)), "d: not in the checkpoint"),
        (whole("a", torch.zeros(4, 7)), r"a: shape \(4, 6\), expected \(4, 7\)"),
        (whole("a", torch.zeros(4, 6).double()), r"a: torch\.float32, expected torch\.float64"),
    ],
)
def test_other_tensors_are_refused(tmp_path: Path, piece: Piece, problem: str) -> None:
    checkpointer = _saved(tmp_path, 1)
    with pytest.raises(InputError, match=problem):
        checkpointer.load(ShardedState([piece]), "m")


def test_a_killed_save_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    source = str(Path(__file__).resolve().parents[4] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONSAFEPATH": "1"}
    with subprocess.Popen([sys.executable, str(RUN), str(tmp_path)], env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"half\n"
        run.kill()
    assert _names(tmp_path) == [".step-000000000002.partial", "latest", "step-000000000001"]
    assert any((tmp_path / ".step-000000000002.partial").glob("*.distcp"))
    weights = torch.zeros(1000)
    checkpointer = Checkpointer(CheckpointFolder(path=tmp_path))
    manifest = checkpointer.load(ShardedState([whole("w", weights)]), "m")
    assert manifest is not None
    assert manifest.step == 1
    assert (weights == 1).all()
    checkpointer.save(ShardedState([whole("w", weights)]), _manifest(2))
    checkpointer.wait()
    assert _names(tmp_path) == ["latest", "step-000000000001", "step-000000000002"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = _saved(tmp_path, 1, 2).folder
    data = next(folder.of_step(2).glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1])
    _assert_step(tmp_path, 1)
    with pytest.raises(InputError, match=r"\.distcp: .* bytes, expected .* bytes: the checkpoint is not whole"):
        _load(tmp_path, folder.of_step(2))
    data.unlink()
    with pytest.raises(InputError, match=r"\.distcp: missing, expected"):
        _load(tmp_path, folder.of_step(2))


def _overwrite(folder: Path, offset: int, content: bytes) -> Path:
    """Other contents of the same size."""
    data = next(folder.glob("*.distcp"))
    with data.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    return data


def test_checksums_are_those_of_the_files(tmp_path: Path) -> None:
    path = _saved(tmp_path, 1).folder.of_step(1)
    crc32 = read_manifest(path).crc32
    assert crc32 == {file.name: f"{zlib.crc32(file.read_bytes()):08x}" for file in path.iterdir() if file.name in crc32}
    assert set(crc32) == {".metadata", "__0_0.distcp"}


@pytest.mark.parametrize(("offset", "content"), [(0, bytes(3000)), (500, b"\xff" * 8)])
def test_changed_contents_are_passed_over_and_told_of(tmp_path: Path, offset: int, content: bytes) -> None:
    folder = _saved(tmp_path, 1, 2).folder
    data = _overwrite(folder.of_step(2), offset, content)
    weights = {name: torch.zeros_like(tensor) for name, tensor in _weights(0).items()}
    told: list[str] = []
    manifest = Checkpointer(folder).load(_state(weights), "m", passed_over=told.append)
    assert manifest is not None
    assert manifest.step == 1
    assert all(torch.equal(weights[name], tensor) for name, tensor in _weights(1).items())
    found, expected = (f"{zlib.crc32(data.read_bytes()):08x}", read_manifest(folder.of_step(2)).crc32[data.name])
    problem = f"{data}: CRC-32 {found}, expected {expected}: the checkpoint is damaged"
    assert told == [f"skipped: {problem}; resumes from step-000000000001"]
    with pytest.raises(InputError, match=re.escape(problem)):
        _load(tmp_path, folder.of_step(2))


def test_changed_contents_push_out_nothing_good(tmp_path: Path) -> None:
    """The run goes back behind them: its checkpoints have smaller numbers."""
    folder = _saved(tmp_path, 100, 200, 300).folder
    for step in (200, 300):
        _overwrite(folder.of_step(step), 500, b"\xff" * 8)
    checkpointer = Checkpointer(folder)
    weights = {name: torch.zeros_like(tensor) for name, tensor in _weights(0).items()}
    manifest = checkpointer.load(_state(weights), "m")
    assert manifest is not None
    assert manifest.step == 100
    for step in (150, 160, 170):
        checkpointer.save(_state(_weights(step)), _manifest(step))
    checkpointer.wait()
    assert {"step-000000000150", "step-000000000160", "step-000000000170"} <= set(_names(tmp_path))


def test_where_all_are_damaged_all_are_named(tmp_path: Path) -> None:
    folder = _saved(tmp_path, 1, 2).folder
    _overwrite(folder.of_step(2), 500, b"\xff" * 8)
    (folder.of_step(1) / "manifest.json").unlink()
    expected = r"no checkpoint is whole: .*2/__0_0.distcp: CRC-32 .* damaged; .*1: no manifest\.json: half written"
    with pytest.raises(InputError, match=expected):
        _load(tmp_path)


def test_damage_without_checksums_is_one_line(tmp_path: Path) -> None:
    """As in checkpoints of earlier versions."""
    folder = _saved(tmp_path, 1).folder
    manifest = msgspec.structs.replace(read_manifest(folder.of_step(1)), crc32={})
    (folder.of_step(1) / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    _assert_step(tmp_path, 1)
    _overwrite(folder.of_step(1), 0, bytes(3000))
    with pytest.raises(InputError, match="step-000000000001: damaged, cannot be read: Weights only load") as refused:
        _load(tmp_path)
    assert "\n" not in str(refused.value)


def test_only_damaged_ones_are_named(tmp_path: Path) -> None:
    folder = _saved(tmp_path, 1).folder
    (folder.of_step(1) / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"step-000000000001: no manifest\.json: half written, or no checkpoint"):
        _load(tmp_path)


def test_the_pointer_counts_before_the_number(tmp_path: Path) -> None:
    """A run that went back to an earlier step and saved there goes on from there."""
    _saved(tmp_path, 5, 3)
    _assert_step(tmp_path, 3)
    (tmp_path / "latest").unlink()
    _assert_step(tmp_path, 5)


def test_a_step_saved_again_replaces_the_former(tmp_path: Path) -> None:
    checkpointer = _saved(tmp_path, 1)
    checkpointer.save(_state(_weights(2)), _manifest(1))
    checkpointer.wait()
    _, weights = _load(tmp_path)
    assert torch.equal(weights["a"], _weights(2)["a"])


def _fails_with(code: int) -> object:
    def fail(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("where", ["write_data", "finish"])
def test_a_full_disk_is_named_and_older_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    checkpointer = _saved(tmp_path, 1)
    monkeypatch.setattr(FileSystemWriter, where, _fails_with(errno.ENOSPC))
    checkpointer.save(_state(_weights(2)), _manifest(2))
    with pytest.raises(InputError, match="no space left on the disk; the checkpoint was not written, older ones stay"):
        checkpointer.wait()
    monkeypatch.undo()
    assert _names(tmp_path) == ["latest", "step-000000000001"]
    _assert_step(tmp_path, 1)
    checkpointer.save(_state(_weights(2)), _manifest(2))
    checkpointer.wait()
    _assert_step(tmp_path, 2)


def test_too_little_space_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=100))
    with pytest.raises(InputError, match=r"no space left on the disk: 100 bytes free, .* needed"):
        _saved(tmp_path, 1)
    assert _names(tmp_path) == []


def test_files_that_the_first_rank_does_not_see_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FileSystemWriter.write_data

    def elsewhere(self: FileSystemWriter, *arguments: object) -> object:
        results = write(self, *arguments)  # type: ignore[arg-type]
        next((tmp_path / ".step-000000000001.partial").glob("*.distcp")).unlink()
        return results

    monkeypatch.setattr(FileSystemWriter, "write_data", elsewhere)
    with pytest.raises(
        InputError, match=r"\.distcp: not seen by the first rank, expected a folder that all nodes share"
    ):
        _saved(tmp_path, 1)
    assert _names(tmp_path) == []


def test_an_error_is_told_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(CheckpointFolder(path=tmp_path))
    monkeypatch.setattr(FileSystemWriter, "write_data", _fails_with(errno.EACCES))
    checkpointer.save(_state(_weights(1)), _manifest(1))
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        checkpointer.save(_state(_weights(2)), _manifest(2))


def test_parts_must_be_all_of_a_tensor(tmp_path: Path) -> None:
    checkpointer = Checkpointer(CheckpointFolder(path=tmp_path))
    half = Piece(name="a", global_shape=(4, 6), offsets=(2, 0), tensor=torch.zeros(2, 6))
    checkpointer.save(ShardedState([half]), _manifest(1))
    with pytest.raises(InputError, match="a: parts of 12 elements in all, expected 24"):
        checkpointer.wait()
    twice = Piece(name="a", global_shape=(4, 6), offsets=(1, 0), tensor=torch.zeros(2, 6))
    checkpointer.save(ShardedState([half, twice]), _manifest(1))
    with pytest.raises(RuntimeError, match="Failed to validate global plan"):
        checkpointer.wait()
    assert _names(tmp_path) == []


def test_keep_is_positive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keep: 0, expected a positive whole number"):
        CheckpointFolder(path=tmp_path, keep=0)


def test_a_piece_lies_inside() -> None:
    with pytest.raises(InputError, match=r"a: a part of shape .* expected a part inside"):
        Piece(name="a", global_shape=(3,), offsets=(2,), tensor=torch.zeros(2))
    with pytest.raises(InputError, match="expected the same number of dimensions"):
        Piece(name="a", global_shape=(3, 3), offsets=(2,), tensor=torch.zeros(2))
