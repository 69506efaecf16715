"""Reads a checkpoint: each rank what its pieces need."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.checksums import file_crc32
from meshwright.executor.checkpoint.load_planner import PieceLoadPlanner
from meshwright.executor.checkpoint.manifest import Manifest, read_manifest
from meshwright.executor.checkpoint.pieces import ShardedState

UNREADABLE = (pickle.UnpicklingError, EOFError, LookupError, AttributeError, RuntimeError, ValueError)
"""What torch raises where the contents of files without checksums are no tensors."""


def checked_manifest(path: Path, model_sha256: str) -> Manifest:
    """The manifest of a whole checkpoint of this model; raises `InputError`."""
    manifest = read_manifest(path)
    if manifest.model_sha256 != model_sha256:
        raise InputError(
            str(path),
            "model_sha256",
            f"{manifest.model_sha256[:12]}, of {manifest.model}; expected {model_sha256[:12]}, this run's model",
        )
    return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A file whose contents are not those that were written."""

    file: Path
    problem: str

    @property
    def error(self) -> InputError:
        """The damage as an error."""
        return InputError(str(self.file), "", self.problem)


def find_damage(path: Path, manifest: Manifest, rank: int, num_ranks: int) -> Damage | None:
    """The first damaged file of this rank's share of a checkpoint's: every so manieth, so that all ranks look at all.

    Files that have no checksum (of earlier versions) pass.
    """
    names = sorted(manifest.crc32, key=lambda name: (len(name), name))  # rank 2's before rank 10's
    for name in names[rank::num_ranks]:
        file, expected = path / name, manifest.crc32[name]
        try:
            found = file_crc32(file)
        except OSError as error:
            return Damage(file=file, problem=f"cannot be read: {error.strerror}")
        if found != expected:
            return Damage(file=file, problem=f"CRC-32 {found}, expected {expected}: the checkpoint is damaged")
    return None


def read_pieces(path: Path, state: ShardedState, *, is_summed: bool) -> None:
    """Fill the pieces in place. `is_summed`: the files' checksums are right.

    Raises `InputError` for tensors that are missing or of another shape or format, and for files that cannot be read.
    """
    reader, planner = FileSystemReader(path), PieceLoadPlanner(state, path)
    try:
        metadata = reader.read_metadata()
        planner.set_up_planner({}, metadata)
        reader.set_up_storage_reader(metadata, is_coordinator=False)
        plan = reader.prepare_local_plan(planner.create_local_plan())
        with torch.no_grad():
            reader.read_data(plan, planner).wait()
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read: {error.strerror}") from error
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE as error:
        if is_summed:
            raise
        problem = str(error).partition("\n")[0]
        raise InputError(str(path), "", f"damaged, cannot be read: {problem}") from error
