"""A token file appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.token_header import read_header
from meshwright.executor.data.token_writer import write_tokens


def test_documents_are_separated_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    written = write_tokens([[1, 2], [3]], path, vocabulary=10, tokenizer="mine", end_of_document=9)
    assert path.read_bytes() == bytes([1, 0, 2, 0, 9, 0, 3, 0, 9, 0])
    header = read_header(path)
    assert header == written
    assert (header.num_tokens, header.num_documents, header.largest_token, header.tokenizer) == (5, 2, 9, "mine")


def test_nothing_stays_of_a_failure(tmp_path: Path) -> None:
    def documents() -> Iterator[list[int]]:
        yield [1]
        raise RuntimeError("reader")

    with pytest.raises(RuntimeError, match="reader"):
        write_tokens(documents(), tmp_path / "tokens.bin", vocabulary=10, tokenizer="", end_of_document=None)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokens.bin"
    write_tokens([[1, 2]], path, vocabulary=10, tokenizer="", end_of_document=None)
    before = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"tokens\.bin: no space left on the disk; nothing was written"):
        write_tokens([[3]], path, vocabulary=10, tokenizer="", end_of_document=None)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tokens.bin", "tokens.bin.json"]
    assert json.loads(path.with_name("tokens.bin.json").read_text())["num_tokens"] == 2


@pytest.mark.parametrize("token", [-1, 10])
def test_a_document_with_an_impossible_id_is_refused(tmp_path: Path, token: int) -> None:
    with pytest.raises(InputError, match=f"document 1: token: {token}, expected an id below 10"):
        write_tokens([[1], [2, token]], tmp_path / "t.bin", vocabulary=10, tokenizer="", end_of_document=None)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no directory"):
        write_tokens([], tmp_path / "none" / "t.bin", vocabulary=10, tokenizer="", end_of_document=None)


@pytest.mark.parametrize("name", ["tokens.bin", "tokens.bin.json"])
def test_only_files_are_replaced(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: cannot be written: it is not a regular file"):
        write_tokens([[1]], tmp_path / "tokens.bin", vocabulary=10, tokenizer="", end_of_document=None)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).is_fifo()
