"""Writes results whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec


def write_json(value: msgspec.Struct, path: Path) -> None:
    """As indented JSON, through a temporary file beside it."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
