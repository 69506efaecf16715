"""Saves and loads checkpoints of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.agreement import Agreement
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.checkpoint.manifest import Manifest
from meshwright.executor.checkpoint.pieces import Piece, ShardedState
from meshwright.executor.checkpoint.read import Damage, checked_manifest, find_damage, read_pieces
from meshwright.executor.checkpoint.staging import StagingBuffers
from meshwright.executor.checkpoint.write import write_checkpoint
from meshwright.executor.layer.groups import ALONE, Communicator


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
        self._damaged: dict[Path, InputError] = {}

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

    def load(
        self,
        state: ShardedState,
        model_sha256: str,
        path: Path | None = None,
        passed_over: Callable[[str], object] = lambda _: None,
    ) -> Manifest | None:
        """Fill the pieces from a checkpoint, by default the newest that is whole; None where there is none.

        All ranks load the one that the first rank finds, when the checksums of its files are right; else the one
        before, and the first rank is told of those `passed_over`. Raises `InputError` for a checkpoint of another
        model, where none is whole, and for tensors that are missing or of another shape or format.
        """
        self.wait()
        whole = self._first_whole(model_sha256, path)
        if whole is None:
            return None
        found, manifest = whole
        self._agreement.all_do(lambda: read_pieces(found, state, is_summed=bool(manifest.crc32)))
        if self._damaged and self._agreement.ranks.rank == 0:
            passed_over(f"skipped: {'; '.join(map(str, self._damaged.values()))}; resumes from {found.name}")
        return manifest

    def _first_whole(self, model_sha256: str, path: Path | None) -> tuple[Path, Manifest] | None:
        """The checkpoint at the path, or the newest without damage; those with damage are noted."""
        while True:
            found = self._agreement.first_alone(lambda: path or self.folder.newest_whole(self._damaged).path)
            if found is None:
                return None
            manifest, damage = self._looked_at(found, model_sha256)
            if damage is None:
                return found, manifest
            if path is not None:
                raise damage.error
            self._damaged[found] = damage.error

    def _looked_at(self, path: Path, model_sha256: str) -> tuple[Manifest, Damage | None]:
        """The manifest of a checkpoint of this model, and the first damaged file that any rank has found."""
        manifest = self._agreement.first_alone(lambda: checked_manifest(path, model_sha256))
        ranks = self._agreement.ranks
        damage = self._agreement.together(
            lambda: find_damage(path, manifest, ranks.rank, ranks.size),
            lambda found: [next(filter(None, found), None)] * ranks.size,
        )
        return manifest, damage

    def _write(self, pieces: list[Piece], manifest: Manifest) -> None:
        try:
            write_checkpoint(self.folder, self._agreement, pieces, manifest, tuple(self._damaged))
            self._damaged.pop(self.folder.of_step(manifest.step), None)  # written anew
        except BaseException as error:  # noqa: BLE001  raised by the next wait
            self._error = error
