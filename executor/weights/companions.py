"""What goes with a model's weights wherever they go: ids of special tokens, how text is generated, the tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
    """Fields of config.json, and files that lie beside it.

    Without a source no token is special: transformers would take the ids of its first model of the family.
    """

    token_ids: Mapping[str, object] = field(default_factory=lambda: dict.fromkeys(TOKEN_IDS))
    files: tuple[Path, ...] = ()

    def copy_to(self, folder: Path) -> None:
        """Copy the files; raises `OSError`."""
        for file in self.files:
            shutil.copyfile(file, folder / file.name)


NO_COMPANIONS = Companions()
"""Of a model that comes from nowhere."""


def find_companions(fields: Mapping[str, object], folder: Path) -> Companions:
    """Those that the fields of a config.json and its folder have. Ids that it does not name stay unnamed."""
    return Companions(
        token_ids={name: fields[name] for name in TOKEN_IDS if name in fields},
        files=tuple(folder / name for name in FILES if (folder / name).is_file()),
    )
