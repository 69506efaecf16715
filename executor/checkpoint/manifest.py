"""What a checkpoint belongs to, in a small JSON file beside its tensors; also the list of its files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.value import Value

FILE = "manifest.json"
SCHEMA_VERSION = 1
SHA256 = re.compile("[0-9a-f]{64}")


class DataPosition(Value, frozen=True, kw_only=True):
    """Where a run is in its data: `next_step` is the first step not yet taken.

    With `source` (the identity of a `TokenSource`), `seed`, `global_batch` and `seq_len` it names
    every token read before and after.
    """

    source: str
    seed: int
    global_batch: int
    seq_len: int
    next_step: int


def check_same_data(saved: DataPosition, current: DataPosition, where: str) -> None:
    """Raise `InputError` where a resumed run would not read on where the saved one, in `where`, stopped."""
    for name in DataPosition.__struct_fields__:
        was, is_now = getattr(saved, name), getattr(current, name)
        if was != is_now:
            problem = f"{_shortened(was)}, but this run has {_shortened(is_now)}; expected the same data"
            raise InputError(where, f"data.{name}", problem)


def _shortened(value: object) -> str:
    """A checksum as its first digits, all else as it is.

    >>> _shortened("ab" * 32), _shortened("zipf of 8")
    ('tokens abababababab', 'zipf of 8')
    """
    text = str(value)
    return f"tokens {text[:12]}" if SHA256.fullmatch(text) else text


class Manifest(Value, frozen=True, kw_only=True):
    """`extra`: what else a run wants back, numbers and texts. `step`: steps taken.

    Filled in when it is saved: `world_size`, `torch` (its version), `files`, sizes in bytes by name, and `crc32`, their
    checksums, which checkpoints of earlier versions have not.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    model_sha256: str
    plan_sha256: str
    step: int
    data: DataPosition
    world_size: int = 0
    torch: str = ""
    files: dict[str, int] = msgspec.field(default_factory=dict)
    crc32: dict[str, str] = msgspec.field(default_factory=dict)
    extra: dict[str, int | float | str | bool] = msgspec.field(default_factory=dict)


def model_sha256(model: ModelSpec) -> str:
    """The checksum of what a model is, whatever it is called and wherever it comes from."""
    return value_sha256(msgspec.structs.replace(model, name="", source=""))


def value_sha256(value: msgspec.Struct) -> str:
    """The checksum of a value's JSON."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, whose files are all there in full; raises `InputError`."""
    path = folder / FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise InputError(str(folder), "", f"no {FILE}: half written, or no checkpoint") from error
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        problem, _, field = str(error).partition(" - at `$")
        raise InputError(str(path), field.strip(".`"), problem) from error
    except msgspec.DecodeError as error:
        raise InputError(str(path), "", f"not JSON: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise InputError(str(path), "schema_version", f"{manifest.schema_version}, expected {SCHEMA_VERSION}")
    _check_files(folder, manifest)
    return manifest


def file_sizes(folder: Path) -> dict[str, int]:
    """The sizes of the files of a folder, the manifest left out."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != FILE}


def _check_files(folder: Path, manifest: Manifest) -> None:
    found = file_sizes(folder)
    for name, size in manifest.files.items():
        if found.get(name) != size:
            there = f"{found[name]:,} bytes" if name in found else "missing"
            raise InputError(str(folder / name), "", f"{there}, expected {size:,} bytes: the checkpoint is not whole")
