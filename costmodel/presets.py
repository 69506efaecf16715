"""Models by name: presets are config.json files in `models/`, read by the same reader as any other."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Final

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.huggingface import read_config_file
from meshwright.costmodel.model import ModelSpec

_DIRECTORY: Final = Path(__file__).parent / "models"

ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "deepseekmoe-16b": "deepseek-moe-16b",
        "llama-3-8b": "llama-3.1-8b",
        "llama-3-70b": "llama-3.1-70b",
        "llama2-7b": "llama-2-7b",
        "llama2-13b": "llama-2-13b",
        "llama2-34b": "llama-2-34b",
        "llama2-70b": "llama-2-70b",
        "llama3-8b": "llama-3.1-8b",
        "llama3-70b": "llama-3.1-70b",
        "llama3.1-8b": "llama-3.1-8b",
        "llama3.1-70b": "llama-3.1-70b",
        "llama3.1-405b": "llama-3.1-405b",
        "llama4-maverick": "llama-4-maverick",
        "llama4-scout": "llama-4-scout",
        "nemotron-4-15b": "nemotron4-15b",
        "nemotron-4-340b": "nemotron4-340b",
    }
)
"""Other names in use for the same shapes."""


def preset_names() -> tuple[str, ...]:
    """Every preset, in alphabetical order, aliases not listed."""
    return tuple(sorted(file.stem for file in _DIRECTORY.glob("*.json")))


def preset_file(name: str) -> Path | None:
    """The config.json of a preset or of another name for it; None where there is none."""
    file = _DIRECTORY / f"{ALIASES.get(name, name)}.json"
    return file if _is_name(name) and file.is_file() else None


def load_model(name_or_path: str) -> ModelSpec:
    """The model of a preset name, or of a path to a config.json or to a directory that holds one.

    >>> load_model("internal-352b").num_layers
    60
    """
    preset = preset_file(name_or_path)
    if preset is not None:
        return read_config_file(preset, name_or_path)
    path = Path(name_or_path)
    if _is_name(name_or_path) and not _exists(path):
        raise ModelError(name_or_path, "", f"no such preset or file, {_suggestion(name_or_path)}")
    return read_config_file(path)


def _is_name(text: str) -> bool:
    """Whether the text could be a preset's name: no part of a path, not a file name."""
    return (
        bool(text) and text not in (".", "..") and "/" not in text and "\\" not in text and not text.endswith(".json")
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _suggestion(name: str) -> str:
    near = get_close_matches(name, (*preset_names(), *ALIASES), n=3, cutoff=0.4)
    if near:
        return f"nearest presets: {', '.join(near)}"
    return f"expected a path to a config.json or one of {', '.join(preset_names())}"
