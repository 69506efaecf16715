"""Saves and loads checkpoints of a run."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.agreement import Agreement
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.checkpoint.load_planner import PieceLoadPlanner
from meshwright.executor.checkpoint.manifest import Manifest, read_manifest
from meshwright.executor.checkpoint.pieces import Piece, ShardedState
from meshwright.executor.checkpoint.save_planner import PieceSavePlanner
from meshwright.executor.checkpoint.staging import StagingBuffers
from meshwright.executor.layer.groups import ALONE, Communicator

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
SPARE_BYTES = 1 << 20
"""Left free beside the tensors, for headers and the manifest."""


class Checkpointer:
    """Writes checkpoints of all ranks behind the run's back. All ranks call the same methods in the same order.

    A save copies the pieces to the host, and a thread writes them: the run waits only for the copy, and for an earlier
    save that is still being written. Ranks agree over a gloo group of their own, so that nothing mixes with training.
    """

    def __init__(self, folder: CheckpointFolder, ranks: Communicator = ALONE) -> None:
        self.folder = folder
        self._agreement = Agreement(ranks=ranks)
        self._buffers = StagingBuffers()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: ShardedState, manifest: Manifest) -> None:
        """Begin to save; raises what went wrong with the save before."""
        self.wait()
        pieces = self._buffers.copies(state)
        manifest = msgspec.structs.replace(
            manifest, world_size=self._agreement.ranks.size, torch=str(torch.__version__)
        )
        self._thread = threading.Thread(target=self._write, args=(pieces, manifest), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written; raises `InputError` or what else went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def load(self, state: ShardedState, model_sha256: str, path: Path | None = None) -> Manifest | None:
        """Fill the pieces from a checkpoint, by default the newest that is whole; None where there is none.

        All ranks load the one that the first rank finds. Raises `InputError` for a checkpoint of another model, for one
        that is not whole, and for tensors that are missing or of another shape or format.
        """
        self.wait()
        found = self._agreement.first_alone(lambda: path or self.folder.latest())
        if found is None:
            return None
        manifest = self._agreement.first_alone(lambda: _checked(found, model_sha256))
        self._agreement.all_do(lambda: _read(found, state))
        return manifest

    def _write(self, pieces: list[Piece], manifest: Manifest) -> None:
        try:
            _save(self.folder, self._agreement, pieces, manifest)
        except BaseException as error:  # noqa: BLE001  raised by the next wait
            self._error = error


def host_group(timeout_s: float = 600.0) -> Communicator:
    """A gloo group of all ranks for a `Checkpointer`; this process alone where nothing is initialized.

    `timeout_s`: after it a save gives up on a rank that does not answer. Wait for the last save before the groups are
    destroyed.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    assert group is not None  # all ranks are in it
    return Communicator(size=dist.get_world_size(), rank=dist.get_rank(), group=group)


def _save(folder: CheckpointFolder, agreement: Agreement, pieces: list[Piece], manifest: Manifest) -> None:
    step = manifest.step
    try:
        partial = agreement.first_alone(lambda: _begun(folder, step))
        _write_pieces(partial, agreement, pieces)
        agreement.first_alone(lambda: _committed(folder, manifest))
    except Exception:
        if agreement.ranks.rank == 0:
            folder.abandon(step)
        raise


def _begun(folder: CheckpointFolder, step: int) -> Path:
    try:
        return folder.begin(step)
    except OSError as error:
        raise _refusal(folder.path, error) from error


def _committed(folder: CheckpointFolder, manifest: Manifest) -> Path:
    try:
        return folder.commit(manifest)
    except OSError as error:
        raise _refusal(folder.path, error) from error


def _write_pieces(partial: Path, agreement: Agreement, pieces: Iterable[Piece]) -> None:
    """The protocol of torch.distributed.checkpoint: local plans, one global plan, data, metadata."""
    planner, writer = PieceSavePlanner(pieces), FileSystemWriter(partial, overwrite=False)
    is_first = agreement.ranks.rank == 0
    planner.set_up_planner({}, writer.storage_meta(), is_first)
    writer.set_up_storage_writer(is_first)
    plan = agreement.together(
        lambda: writer.prepare_local_plan(planner.create_local_plan()),
        lambda plans: _global_plan(planner, writer, plans),
    )
    agreement.together(
        lambda: _written(partial, writer, planner, planner.finish_plan(plan)),
        lambda results: _finished(partial, planner, writer, results),
    )


def _global_plan(planner: PieceSavePlanner, writer: FileSystemWriter, plans: list[SavePlan]) -> list[SavePlan]:
    return writer.prepare_global_plan(planner.create_global_plan(plans)[0])


def _written(partial: Path, writer: FileSystemWriter, planner: PieceSavePlanner, plan: SavePlan) -> list[WriteResult]:
    needed = sum(planner.resolve_data(item).nbytes for item in plan.items) + SPARE_BYTES
    try:
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise InputError(
                str(partial.parent), "", f"no space left on the disk: {free:,} bytes free, {needed:,} needed"
            )
        future = writer.write_data(plan, planner)
        future.wait()
        return future.value()
    except OSError as error:
        raise _refusal(partial.parent, error) from error
    except RuntimeError as error:  # how torch's writer reports a failed write of the stream under it
        cause = error.__context__
        raise _refusal(partial.parent, cause if isinstance(cause, OSError) else OSError(None, str(error))) from error


def _finished(
    partial: Path, planner: PieceSavePlanner, writer: FileSystemWriter, results: list[list[WriteResult]]
) -> list[None]:
    try:
        for result in (result for rank in results for result in rank):
            file = partial / result.storage_data.relative_path
            if not file.is_file():
                raise InputError(str(file), "", "not seen by the first rank, expected a folder that all nodes share")
        writer.finish(planner.metadata, results)
    except OSError as error:
        raise _refusal(partial.parent, error) from error
    return [None] * len(results)


def _refusal(folder: Path, error: OSError) -> InputError:
    if error.errno in NO_SPACE:
        return InputError(str(folder), "", "no space left on the disk; the checkpoint was not written, older ones stay")
    return InputError(str(folder), "", f"cannot be written: {error.strerror or error}")


def _checked(path: Path, model_sha256: str) -> Manifest:
    manifest = read_manifest(path)
    if manifest.model_sha256 != model_sha256:
        raise InputError(
            str(path),
            "model_sha256",
            f"{manifest.model_sha256[:12]}, of {manifest.model}; expected {model_sha256[:12]}, this run's model",
        )
    return manifest


def _read(path: Path, state: ShardedState) -> None:
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
