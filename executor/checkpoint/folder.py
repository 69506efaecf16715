"""The folder that holds a run's checkpoints: their names, the newest good one, how one appears and old ones go.

step-000000000200/          a whole checkpoint
.step-000000000300.partial/ one that is being written, or was when the run died
latest                      the name of the newest
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.checksums import file_crc32
from meshwright.executor.checkpoint.manifest import FILE, Manifest, file_sizes, read_manifest

LATEST = "latest"
NAME = re.compile(r"step-(\d{12,})")
NONE_DAMAGED: Mapping[Path, InputError] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestWhole:
    """The checkpoint that counts, None without any, and why those that would come before it do not."""

    path: Path | None
    skipped: tuple[InputError, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFolder:
    """`keep`: how many good checkpoints stay."""

    path: Path
    keep: int = 3

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise InputError("checkpoint", "keep", f"{self.keep}, expected a positive whole number")

    def of_step(self, step: int) -> Path:
        """Where the checkpoint of a step is or will be."""
        return self.path / f"step-{step:012d}"

    def partial(self, step: int) -> Path:
        """Where it is written."""
        return self.path / f".{self.of_step(step).name}.partial"

    def checkpoints(self) -> list[Path]:
        """All that appeared, oldest first; whether they are whole is not checked."""
        if not self.path.is_dir():
            return []
        found = [(int(match[1]), path) for path in self.path.iterdir() if (match := NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def latest(self) -> Path | None:
        """The path of `newest_whole`."""
        return self.newest_whole().path

    def newest_whole(self, damaged: Mapping[Path, InputError] = NONE_DAMAGED) -> NewestWhole:
        """What the pointer names if that is whole, or else the newest of all that are.

        `damaged`: those whose contents are known to be wrong, which is not looked at here. Raises `InputError` where
        there are checkpoints and none is whole, with the reason of each.
        """
        candidates = self.checkpoints()[::-1]
        pointed = self._pointed()
        if pointed in candidates:
            candidates.sort(key=lambda path: path != pointed)
        skipped: list[InputError] = []
        for path in candidates:
            problem = damaged.get(path) or _problem(path)
            if problem is None:
                return NewestWhole(path=path, skipped=tuple(skipped))
            skipped.append(problem)
        if len(skipped) == 1:
            raise skipped[0]
        if skipped:
            raise InputError(str(self.path), "", f"no checkpoint is whole: {'; '.join(map(str, skipped))}")
        return NewestWhole(path=None)

    def _pointed(self) -> Path | None:
        try:
            return self.path / (self.path / LATEST).read_text(encoding="utf-8").strip()
        except OSError:
            return None

    def begin(self, step: int) -> Path:
        """An empty folder to write into; what earlier runs left half written is removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self.path.glob(".step-*.partial"):
            shutil.rmtree(left)
        partial = self.partial(step)
        partial.mkdir()
        return partial

    def commit(self, manifest: Manifest, damaged: Collection[Path] = ()) -> Path:
        """Make what was written a checkpoint: all on disk, then the new name, then the pointer; older ones go last.

        `damaged`: checkpoints whose contents are known to be wrong.
        """
        partial, target = self.partial(manifest.step), self.of_step(manifest.step)
        sizes = file_sizes(partial)
        others = {name: file_crc32(partial / name) for name in sizes if name not in manifest.crc32}
        manifest = msgspec.structs.replace(manifest, files=sizes, crc32=manifest.crc32 | others)
        _write(partial / FILE, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        _sync(partial)
        if target.exists():  # the same step again, after a run went back
            shutil.rmtree(target)
        partial.rename(target)
        _sync(self.path)
        pointer = self.path / f".{LATEST}"
        _write(pointer, f"{target.name}\n".encode())
        pointer.replace(self.path / LATEST)
        _sync(self.path)
        self._prune(target, damaged)
        return target

    def abandon(self, step: int) -> None:
        """Remove what was written of a checkpoint that failed."""
        shutil.rmtree(self.partial(step), ignore_errors=True)

    def _prune(self, newest: Path, damaged: Collection[Path]) -> None:
        """Damaged ones do not count, so that they never push out a good one, and go with what is older."""
        others = [path for path in self.checkpoints() if path != newest]
        good = [path for path in others if path not in damaged and _problem(path) is None]
        kept = good[len(good) - (self.keep - 1) :] if len(good) >= self.keep else others
        for path in others:
            if path not in kept:
                shutil.rmtree(path)


def _problem(path: Path) -> InputError | None:
    """Why a checkpoint is not whole; None if it is."""
    try:
        read_manifest(path)
    except InputError as error:
        return error
    return None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Names of files on disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
