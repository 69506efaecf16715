"""Writes a checkpoint: all ranks their pieces, the first what holds them together."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.agreement import Agreement
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.checkpoint.manifest import Manifest
from meshwright.executor.checkpoint.pieces import Piece
from meshwright.executor.checkpoint.save_planner import PieceSavePlanner
from meshwright.executor.checkpoint.summed_writer import SummedWriter

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
SPARE_BYTES = 1 << 20
"""Left free beside the tensors, for headers and the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What a rank has written, and the checksums of its files by name."""

    results: list[WriteResult]
    crc32: dict[str, str]


def write_checkpoint(
    folder: CheckpointFolder,
    agreement: Agreement,
    pieces: Iterable[Piece],
    manifest: Manifest,
    damaged: Collection[Path] = (),
) -> None:
    """Write pieces that are in host memory; the checkpoint appears when it is whole, or nothing of it stays.

    `damaged`: older checkpoints that do not count as good ones.

    All ranks raise what went wrong on one of them: `InputError` for a full disk, a folder that not all ranks see, or
    pieces that are not all of a tensor.
    """
    step = manifest.step
    try:
        partial = agreement.first_alone(lambda: _begun(folder, step))
        summed = msgspec.structs.replace(manifest, crc32=_write_pieces(partial, agreement, pieces))
        agreement.first_alone(lambda: _committed(folder, summed, damaged))
    except Exception:
        if agreement.ranks.rank == 0:
            folder.abandon(step)
        raise


def _begun(folder: CheckpointFolder, step: int) -> Path:
    try:
        return folder.begin(step)
    except OSError as error:
        raise _refusal(folder.path, error) from error


def _committed(folder: CheckpointFolder, manifest: Manifest, damaged: Collection[Path]) -> Path:
    try:
        return folder.commit(manifest, damaged)
    except OSError as error:
        raise _refusal(folder.path, error) from error


def _write_pieces(partial: Path, agreement: Agreement, pieces: Iterable[Piece]) -> dict[str, str]:
    """The protocol of torch.distributed.checkpoint: local plans, one global plan, data, metadata.

    Returns the checksums of all ranks' files.
    """
    planner, writer = PieceSavePlanner(pieces), SummedWriter(partial)
    is_first = agreement.ranks.rank == 0
    planner.set_up_planner({}, writer.storage_meta(), is_first)
    writer.set_up_storage_writer(is_first)
    plan = agreement.together(
        lambda: writer.prepare_local_plan(planner.create_local_plan()),
        lambda plans: _global_plan(planner, writer, plans),
    )
    return agreement.together(
        lambda: _written(partial, writer, planner, planner.finish_plan(plan)),
        lambda results: _finished(partial, planner, writer, results),
    )


def _global_plan(planner: PieceSavePlanner, writer: SummedWriter, plans: list[SavePlan]) -> list[SavePlan]:
    return writer.prepare_global_plan(planner.create_global_plan(plans)[0])


def _written(partial: Path, writer: SummedWriter, planner: PieceSavePlanner, plan: SavePlan) -> _Written:
    needed = sum(planner.resolve_data(item).nbytes for item in plan.items) + SPARE_BYTES
    try:
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise InputError(
                str(partial.parent), "", f"no space left on the disk: {free:,} bytes free, {needed:,} needed"
            )
        future = writer.write_data(plan, planner)
        future.wait()
        return _Written(results=future.value(), crc32=dict(writer.crc32))
    except OSError as error:
        raise _refusal(partial.parent, error) from error
    except RuntimeError as error:  # how torch's writer reports a failed write of the stream under it
        cause = error.__context__
        raise _refusal(partial.parent, cause if isinstance(cause, OSError) else OSError(None, str(error))) from error


def _finished(
    partial: Path, planner: PieceSavePlanner, writer: SummedWriter, ranks: list[_Written]
) -> list[dict[str, str]]:
    try:
        for result in (result for rank in ranks for result in rank.results):
            file = partial / result.storage_data.relative_path
            if not file.is_file():
                raise InputError(str(file), "", "not seen by the first rank, expected a folder that all nodes share")
        writer.finish(planner.metadata, [rank.results for rank in ranks])
    except OSError as error:
        raise _refusal(partial.parent, error) from error
    crc32 = {name: text for rank in ranks for name, text in rank.crc32.items()}
    return [crc32] * len(ranks)


def _refusal(folder: Path, error: OSError) -> InputError:
    if error.errno in NO_SPACE:
        return InputError(str(folder), "", "no space left on the disk; the checkpoint was not written, older ones stay")
    return InputError(str(folder), "", f"cannot be written: {error.strerror or error}")
