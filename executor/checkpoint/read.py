"""Reads a checkpoint: each rank what its pieces need."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.load_planner import PieceLoadPlanner
from meshwright.executor.checkpoint.manifest import Manifest, read_manifest
from meshwright.executor.checkpoint.pieces import ShardedState


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


def read_pieces(path: Path, state: ShardedState) -> None:
    """Fill the pieces in place; raises `InputError` for tensors that are missing or of another shape or format."""
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
