"""The fields of a model's config.json."""

from __future__ import annotations

from pathlib import Path

import msgspec

from meshwright.costmodel.errors import InputError

CONFIG = "config.json"
RENAMED = {"qwen3_moe": ("num_local_experts", "num_experts")}
"""What transformers 5 writes under another name than the published files: (its name, theirs)."""


def read_config_fields(path: Path) -> dict[str, object]:
    """The fields of a config.json under the names of the published files; raises `InputError`."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except FileNotFoundError as error:
        raise InputError(str(path), "", "no such file, expected that of a Hugging Face model") from error
    except (msgspec.MsgspecError, OSError) as error:
        raise InputError(str(path), "", f"cannot be read: {error}") from error
    written, published = RENAMED.get(str(config.get("model_type")), ("", ""))
    if written in config:
        config.setdefault(published, config[written])
    return config
