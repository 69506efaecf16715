"""Writes results whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec


def write_json(value: msgspec.Struct, path: Path) -> None:
    """As JSON with a line for each field and each member of a list."""
    replace_file(path, in_lines(value))


def replace_file(path: Path, content: bytes) -> None:
    """Through a temporary file beside it: the path has the old content or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def in_lines(value: msgspec.Struct) -> bytes:
    """JSON that a person can read and a comparison of versions can show: one sample or table a line."""
    fields = msgspec.to_builtins(value)
    return b"{\n" + b",\n".join(_field(name, content) for name, content in fields.items()) + b"\n}\n"


def _field(name: str, content: object) -> bytes:
    head = b" " + msgspec.json.encode(name) + b": "
    if isinstance(content, list | tuple) and content:
        return head + b"[\n" + b",\n".join(b"  " + msgspec.json.encode(member) for member in content) + b"\n ]"
    return head + msgspec.json.encode(content)
