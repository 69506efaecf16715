"""Where built libraries lie, and which of them fits the present sources.

A build is a folder `$XDG_CACHE_HOME/meshwright/kernels/<sources>-cuda<version>` with the library and what is known of
it. $MESHWRIGHT_KERNELS_LIBRARY names a library instead, built elsewhere, with its record beside it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.kernels.build.ptxas import KernelReport
from meshwright.kernels.build.sources import BUILD_SCHEMA_VERSION, library_digest, sources_digest

LIBRARY_NAME: Final = "libmeshwright_kernels.so"
LOCK_SUFFIX: Final = ".lock"
SCRATCH_PREFIX: Final = ".build-"
RECORD_SUFFIX: Final = ".json"
LIBRARY_VARIABLE: Final = "MESHWRIGHT_KERNELS_LIBRARY"


class BuildRecord(Value, frozen=True, kw_only=True):
    """What a library was built from and with. `sources`: fingerprint of sources and flags, `library`: of the result."""

    schema_version: int
    sources: str
    cuda: str
    torch: str
    kernels: tuple[KernelReport, ...]
    size_bytes: int
    library: str


class BuiltLibrary(Value, frozen=True, kw_only=True):
    """A library that fits the present sources."""

    path: str
    record: BuildRecord


def cache_folder() -> Path:
    """Where this user's builds lie."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "meshwright" / "kernels"


def record_path(library: Path) -> Path:
    """The record beside a library."""
    return library.with_suffix(RECORD_SUFFIX)


def built_library() -> BuiltLibrary | None:
    """The library of the present sources, whatever compiler it was built with; None where there is none.

    Raises:
        InputError: $MESHWRIGHT_KERNELS_LIBRARY names one that is missing or of other sources.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return _named_library(Path(named))
    for folder in sorted(cache_folder().glob(f"{sources_digest()}-cuda*"), reverse=True):
        if found := built_library_at(folder / LIBRARY_NAME):
            return found
    return None


def built_library_at(library: Path) -> BuiltLibrary | None:
    """The library there; None where it or its record is missing or damaged."""
    try:
        record = read_record(library)
    except InputError:
        return None
    whole = library.is_file() and not _damage(library, record)
    return BuiltLibrary(path=str(library), record=record) if whole else None


def _damage(library: Path, record: BuildRecord) -> str:
    """What is wrong with a library's bytes, which would end the process that loads it; empty if nothing is."""
    size = library.stat().st_size
    if size != record.size_bytes:
        return f"has {size} bytes, expected {record.size_bytes}"
    return "" if library_digest(library) == record.library else f"is not as {record_path(library).name} has it"


def _named_library(library: Path) -> BuiltLibrary:
    if library.is_dir():
        problem = f"{library} is a folder, expected the library itself: {library / LIBRARY_NAME}"
        raise InputError(f"${LIBRARY_VARIABLE}", "", problem)
    if not library.is_file():
        raise InputError(f"${LIBRARY_VARIABLE}", "", f"{library} is not there, expected a built library")
    record = read_record(library)
    if damage := _damage(library, record):
        raise InputError(f"${LIBRARY_VARIABLE}", "", f"{library} {damage}: copy it again")
    if record.sources != sources_digest():
        raise InputError(
            f"${LIBRARY_VARIABLE}",
            "",
            f"{library} was built from other sources ({record.sources}), expected {sources_digest()}: build it again",
        )
    return BuiltLibrary(path=str(library), record=record)


def read_record(library: Path) -> BuildRecord:
    """The record of a library.

    Raises:
        InputError: It is missing or not one.
    """
    path = record_path(library)
    try:
        record = msgspec.json.decode(path.read_bytes(), type=BuildRecord)
    except (OSError, msgspec.MsgspecError) as problem:
        expected = f"expected the record of a built library, which lies beside it: {problem}"
        raise InputError(str(path), "", expected) from problem
    if record.schema_version != BUILD_SCHEMA_VERSION:
        expected = f"{record.schema_version}, expected {BUILD_SCHEMA_VERSION}"
        raise InputError(str(path), "schema_version", expected)
    return record


@contextmanager
def build_lock(name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Held while a build is made, so that two processes do not make the same one side by side.

    Raises:
        InputError: The cache cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock_file(name).open("w", encoding="utf-8")
    except OSError as problem:
        raise InputError(str(folder), "", f"builds cannot be kept there: {problem.strerror}") from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("kernels: another process builds; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_file(name: str) -> Path:
    return cache_folder() / f"{name}{LOCK_SUFFIX}"


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """An empty folder on the cache's file system, gone afterwards. Only for who holds the lock of that build."""
    folder = cache_folder() / f"{SCRATCH_PREFIX}{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_scratch() -> None:
    """Remove the scratch folders of builds that were killed: those whose lock nobody holds."""
    for folder in cache_folder().glob(f"{SCRATCH_PREFIX}*"):
        lock = _lock_file(folder.name.removeprefix(SCRATCH_PREFIX))
        if not lock.is_file():
            continue
        with lock.open("w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder, ignore_errors=True)
