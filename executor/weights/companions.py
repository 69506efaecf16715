"""What goes with a model's weights wherever they go: ids of special tokens, how text is generated, the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshwright.costmodel.errors import InputError

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""As transformers saves them: each model has some of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """Fields of config.json, and the contents of files that lie beside it, by name.

    Without a source no token is special: transformers would take the ids of its first model of the family.
    """

    token_ids: Mapping[str, object] = field(default_factory=lambda: dict.fromkeys(TOKEN_IDS))
    files: Mapping[str, bytes] = field(default_factory=dict)

    def write_to(self, folder: Path) -> None:
        """Write the files; raises `OSError`."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


NO_COMPANIONS = Companions()
"""Of a model that comes from nowhere."""


def find_companions(fields: Mapping[str, object], folder: Path) -> Companions:
    """Those that the fields of a config.json and its folder have now. Ids that it does not name stay unnamed.

    Raises `InputError` for a file that cannot be read.
    """
    there = [folder / name for name in FILES if (folder / name).is_file()]
    return Companions(
        token_ids={name: fields[name] for name in TOKEN_IDS if name in fields},
        files={file.name: _content(file) for file in there},
    )


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(str(file), "", f"cannot be read: {error.strerror}") from error
