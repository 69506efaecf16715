"""The fields of a model's config.json."""

from __future__ import annotations

from pathlib import Path

import msgspec

from meshwright.costmodel.errors import InputError

CONFIG = "config.json"


def read_config_fields(path: Path) -> dict[str, object]:
    """The fields of a config.json; raises `InputError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except FileNotFoundError as error:
        raise InputError(str(path), "", "no such file, expected that of a Hugging Face model") from error
    except (msgspec.MsgspecError, OSError) as error:
        raise InputError(str(path), "", f"cannot be read: {error}") from error
