"""Records of the drivers in benchmarks/: how they were made, and one way of writing and reading them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from meshwright import __version__
from meshwright.costmodel.errors import InputError, MeshwrightError
from meshwright.costmodel.value import Value
from meshwright.planner.serialise import write_whole

Kind = TypeVar("Kind")


class Origin(Value, frozen=True, kw_only=True):
    """By which command a record was made, when (UTC), with which version, of which commit.

    commit: `+` behind it: of changed files; empty outside of a clone.
    """

    command: str
    date: str
    version: str
    commit: str

    @property
    def head(self) -> dict[str, object]:
        """What a record that is an object begins with."""
        return msgspec.structs.asdict(self)


def origin_of(driver: str) -> Origin:
    """Of the record that a driver makes now; `driver` is its `__file__`."""
    path = Path(driver).resolve()
    return Origin(
        command=shlex.join(("python", f"{path.parent.name}/{path.name}", *sys.argv[1:])),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        commit=_commit(path.parent),
    )


def _commit(folder: Path) -> str:
    command = ("git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    try:
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def write_record(record: Value | Mapping[str, object], path: Path, *, indent: int = 1) -> None:
    """Write a record so that it is there in full or not at all. `indent` 0: on one line."""
    write_whole(msgspec.json.format(msgspec.json.encode(record), indent=indent) + b"\n", path)


def read_record(path: Path, kind: type[Kind]) -> Kind:
    """A record of that kind.

    Raises:
        InputError: It is not there, or no record of that kind.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as problem:
        raise InputError(str(path), "", f"cannot be read: {problem.strerror}") from problem
    except msgspec.DecodeError as problem:
        raise InputError(str(path), "", f"is no record of a run: {problem}") from problem


def read_version(path: Path, kind: type[Kind], schema_version: int) -> Kind:
    """As `read_record`, of a kind with a field `schema_version`, which must be as given."""
    record = read_record(path, kind)
    found = getattr(record, "schema_version", None)
    if found != schema_version:
        raise InputError(str(path), "schema_version", f"is {found}, expected {schema_version}")
    return record


def exit_status(main: Callable[[], int], driver: str) -> int:
    """The status of a driver's `main`; bad input is one line."""
    try:
        return main()
    except MeshwrightError as error:
        sys.stderr.write(f"{Path(driver).stem}: {error}\n")
        return error.exit_status
