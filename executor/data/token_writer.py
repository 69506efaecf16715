"""Writes a token file and its header, both or none."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.token_header import TokenHeader, TokenType, header_path
from meshwright.planner.serialise import check_writable

LARGEST_UINT16 = (1 << 16) - 1


def write_tokens(
    documents: Iterable[Sequence[int]], path: Path, *, vocabulary: int, tokenizer: str, end_of_document: int | None
) -> TokenHeader:
    """Write documents one behind the other, each followed by `end_of_document`; the file appears when it is whole."""
    for target in (path, header_path(path)):
        check_writable(target)
    dtype = TokenType.UINT16 if vocabulary - 1 <= LARGEST_UINT16 else TokenType.UINT32
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    writer = _Writer(dtype, vocabulary, end_of_document)
    try:
        with os.fdopen(handle, "wb") as file:
            for document in documents:
                file.write(writer.encoded(document))
            file.flush()
            os.fsync(file.fileno())
        header = writer.header(tokenizer)
        _publish(temporary, path, header)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _refusal(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return header


class _Writer:
    """Counts and hashes what is written."""

    def __init__(self, dtype: TokenType, vocabulary: int, end_of_document: int | None) -> None:
        self._dtype = dtype
        self._vocabulary = vocabulary
        self._end = [] if end_of_document is None else [end_of_document]
        self._digest = hashlib.sha256()
        self._num_tokens = 0
        self._num_documents = 0
        self._largest = -1

    def encoded(self, document: Sequence[int]) -> bytes:
        tokens = np.array([*document, *self._end], dtype=np.int64)
        if tokens.size:
            if not 0 <= int(tokens.min()) <= int(tokens.max()) < self._vocabulary:
                bad = int(tokens[np.argmax((tokens < 0) | (tokens >= self._vocabulary))])
                where = f"document {self._num_documents:,}"
                raise InputError(where, "token", f"{bad}, expected an id below {self._vocabulary:,}")
            self._largest = max(self._largest, int(tokens.max()))
        content = tokens.astype(self._dtype.numpy_name).tobytes()
        self._digest.update(content)
        self._num_tokens += tokens.size
        self._num_documents += 1
        return content

    def header(self, tokenizer: str) -> TokenHeader:
        return TokenHeader(
            dtype=self._dtype,
            vocabulary=self._vocabulary,
            num_tokens=self._num_tokens,
            num_documents=self._num_documents,
            largest_token=self._largest,
            tokenizer=tokenizer,
            sha256=self._digest.hexdigest(),
        )


def _publish(temporary: Path, path: Path, header: TokenHeader) -> None:
    """Tokens first, header last; an older header goes before, so that it never stands beside newer tokens."""
    target = header_path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{target.name}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(header), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        for each in (temporary, beside):
            each.chmod(0o644)
        target.unlink(missing_ok=True)
        temporary.replace(path)
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _refusal(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(str(path), "", "no space left on the disk; nothing was written")
    return InputError(str(path), "", f"cannot be written: {error.strerror}")
