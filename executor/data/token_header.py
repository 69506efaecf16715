"""The header of a token file: a small JSON file beside the tokens, without which they mean nothing."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value

SCHEMA_VERSION = 1


class TokenType(StrEnum):
    """How a token lies in the file, little-endian."""

    UINT16 = "uint16"
    UINT32 = "uint32"

    @property
    def num_bytes(self) -> int:
        """Bytes of a token."""
        return 2 if self is TokenType.UINT16 else 4

    @property
    def numpy_name(self) -> str:
        """NumPy's name of the format, with the order of bytes."""
        return f"<u{self.num_bytes}"


class TokenHeader(Value, frozen=True, kw_only=True):
    """What is known of a token file. `largest_token` is the largest id in it, -1 without tokens."""

    schema_version: int = SCHEMA_VERSION
    dtype: TokenType
    vocabulary: int
    num_tokens: int
    num_documents: int
    largest_token: int
    tokenizer: str
    sha256: str

    @property
    def num_bytes(self) -> int:
        """The size of the token file."""
        return self.num_tokens * self.dtype.num_bytes


def header_path(tokens: Path) -> Path:
    """Where the header of a token file is.

    >>> str(header_path(Path("corpus/tokens.bin")))
    'corpus/tokens.bin.json'
    """
    return tokens.with_name(f"{tokens.name}.json")


def read_header(tokens: Path) -> TokenHeader:
    """The header of a token file, which is checked against the file's size; raises `InputError`."""
    if tokens.is_dir():
        raise InputError(str(tokens), "", "a folder, expected a file of tokens that `meshwright tokenize` wrote")
    if not tokens.is_file():
        raise InputError(str(tokens), "", "no such file, expected tokens that `meshwright tokenize` wrote")
    path = header_path(tokens)
    try:
        header = msgspec.json.decode(path.read_bytes(), type=TokenHeader)
    except FileNotFoundError as error:
        raise InputError(
            str(path), "", "no such file, expected the header of a token file; `meshwright tokenize` writes both"
        ) from error
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        problem, _, field = str(error).partition(" - at `$")
        raise InputError(str(path), field.strip(".`"), problem) from error
    except msgspec.DecodeError as error:
        raise InputError(str(path), "", f"not JSON: {error}") from error
    _check(tokens, path, header)
    return header


def _check(tokens: Path, path: Path, header: TokenHeader) -> None:
    if header.schema_version != SCHEMA_VERSION:
        raise InputError(str(path), "schema_version", f"{header.schema_version}, expected {SCHEMA_VERSION}")
    if header.num_tokens < 0:
        raise InputError(str(path), "num_tokens", f"{header.num_tokens}, expected 0 or more")
    found = tokens.stat().st_size
    if found != header.num_bytes:
        raise InputError(
            str(tokens),
            "",
            f"has {found:,} bytes, expected {header.num_bytes:,} ({header.num_tokens:,} tokens of "
            f"{header.dtype.value}, as {path.name} says): truncated, or the header belongs to another file",
        )
