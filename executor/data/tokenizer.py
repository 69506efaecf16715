"""Text to tokens by a Hugging Face tokenizer (the `tokenizers` library: a `tokenizer.json`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.token_header import TokenHeader
from meshwright.executor.data.token_writer import write_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
PIECE_CHARACTERS = 1 << 20
"""A longer document is encoded in pieces that end with a line, shorter ones together: memory stays bounded."""

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are read."""


@dataclass(frozen=True, kw_only=True)
class TextTokenizer:
    """A tokenizer, its name and the token that ends a document."""

    name: str
    tokenizer: Tokenizer
    end_of_document: int

    @property
    def vocabulary(self) -> int:
        """Ids are below it, those of added tokens included."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of documents, with nothing added. All are encoded side by side."""
        pieces = [(number, piece) for number, text in enumerate(texts) for piece in _pieces(text)]
        encodings = self.tokenizer.encode_batch_fast([piece for _, piece in pieces], add_special_tokens=False)
        documents: list[list[int]] = [[] for _ in texts]
        for (number, _), encoding in zip(pieces, encodings, strict=True):
            documents[number] += encoding.ids
        return documents


def load_tokenizer(name: str, end_of_document: str | None) -> TextTokenizer:
    """A tokenizer from a `tokenizer.json`, a folder with one, or the Hugging Face hub; raises `InputError`.

    `end_of_document`: the token, None for the one that the tokenizer's settings call `eos_token`.
    """
    if find_spec("tokenizers") is None:
        raise InputError("tokenize", "", "needs the package tokenizers: pip install 'meshwright[train]'")
    file = _local_file(name) or _fetched(name, FILE)
    if file is None:
        raise InputError("--tokenizer", name, f"has no {FILE} on the Hugging Face hub, or the hub cannot be reached")
    tokenizer = _parsed(file)
    text = end_of_document or _eos_token(name, file)
    token = tokenizer.token_to_id(text)
    if token is None:
        raise InputError(str(file), "eos", f"{text!r} is no token of this tokenizer; --eos names another")
    return TextTokenizer(name=name, tokenizer=tokenizer, end_of_document=token)


def _local_file(name: str) -> Path | None:
    path = Path(name)
    if path.is_dir() and not (path / FILE).is_file():
        raise InputError(str(path / FILE), "", "no such file, expected a tokenizer of the `tokenizers` library")
    if path.exists():
        return path / FILE if path.is_dir() else path
    if not HUB_NAME.fullmatch(name) or name.startswith(".") or path.suffix == ".json":
        raise InputError("--tokenizer", name, f"no such file or folder, expected a folder with {FILE}, or a hub name")
    return None


def _fetched(name: str, file: str) -> Path | None:
    """A file of a repository on the hub, or None."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file))
    except (OSError, ValueError):  # every refusal of the hub and of the network is one of these
        return None


def _parsed(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise InputError(str(file), "", f"no tokenizer: {error}") from error


def _eos_token(name: str, file: Path) -> str:
    settings = file.with_name(SETTINGS) if Path(name).exists() else _fetched(name, SETTINGS)
    if settings is not None and settings.is_file():
        try:
            found = json.loads(settings.read_bytes())
        except ValueError as error:
            raise InputError(str(settings), "", f"not JSON: {error}") from error
        token = found.get("eos_token") if isinstance(found, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    raise InputError(str(file), "eos", f"no eos_token in {SETTINGS} beside it; --eos names the token")


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = text.rfind("\n", start, start + PIECE_CHARACTERS) + 1 or start + PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]


def tokenize_files(
    files: Sequence[Path], tokenizer: TextTokenizer, output: Path, progress: Progress = lambda _done, _total: None
) -> TokenHeader:
    """Write the tokens of text files: a `.jsonl` has a document in the field `text` of every line, others are one."""
    for file in files:
        if not file.is_file():
            raise InputError(str(file), "", "no such file, expected text")
        if output.exists() and file.samefile(output):
            raise InputError(str(output), "", "is one of the texts; expected another file")
        if not file.stat().st_size:
            raise InputError(str(file), "", "is empty, expected text")
    return write_tokens(
        (document for texts in _batches(_documents(files, progress)) for document in tokenizer.encode(texts)),
        output,
        vocabulary=tokenizer.vocabulary,
        tokenizer=tokenizer.name,
        end_of_document=tokenizer.end_of_document,
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Documents together until they are as long as a piece."""
    batch: list[str] = []
    length = 0
    for text in texts:
        batch.append(text)
        length += len(text)
        if length >= PIECE_CHARACTERS:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _documents(files: Iterable[Path], progress: Progress) -> Iterator[str]:
    sizes = {file: file.stat().st_size for file in files}
    done, total = 0, sum(sizes.values())
    for file, size in sizes.items():
        if file.suffix == ".jsonl":
            for text, num_bytes in _lines(file):
                yield text
                progress(done + num_bytes, total)
        else:
            yield _decoded(file, file.read_bytes())
        done += size
        progress(done, total)


def _lines(file: Path) -> Iterator[tuple[str, int]]:
    """The document of every line, with the bytes read up to it."""
    num_bytes = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            num_bytes += len(line)
            if line.strip():
                yield _text_of(file, number, line), num_bytes


def _text_of(file: Path, number: int, line: bytes) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(str(file), f"line {number}", f"not JSON: {error}") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError(str(file), f"line {number}", "has no text, expected an object with a string `text`")
    return text


def _decoded(file: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(str(file), f"byte {error.start:,}", "not UTF-8") from error
