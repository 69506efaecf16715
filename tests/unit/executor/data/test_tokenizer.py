"""Text files to token files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.executor.data import tokenizer as module
from meshwright.executor.data.token_header import read_header
from meshwright.executor.data.tokenizer import load_tokenizer, tokenize_files


def _tokens(path: Path) -> list[int]:
    return [int(token) for token in np.fromfile(path, dtype="<u2")]


def test_every_document_ends_with_eos(tokenizer_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two\nthree")
    lines = [json.dumps({"text": "two two"}), "", json.dumps({"text": ""}), json.dumps({"text": "four", "id": 1})]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    tokenizer = load_tokenizer(str(tokenizer_folder), None)
    output = tmp_path / "tokens.bin"
    seen: list[tuple[int, int]] = []
    header = tokenize_files(
        [tmp_path / "a.txt", tmp_path / "b.jsonl"], tokenizer, output, lambda *state: seen.append(state)
    )
    assert _tokens(output) == [2, 3, 4, 1, 3, 3, 1, 1, 0, 1]
    assert header == read_header(output)
    assert (header.num_documents, header.vocabulary, header.tokenizer) == (4, 5, str(tokenizer_folder))
    assert seen[-1][0] == seen[-1][1] == sum((tmp_path / name).stat().st_size for name in ("a.txt", "b.jsonl"))
    assert seen == sorted(seen)


def test_long_documents_are_encoded_in_pieces(
    tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "long.txt"
    text.write_text("one two\n" * 50 + "three")
    tokenizer = load_tokenizer(str(tokenizer_folder), None)
    whole = tokenize_files([text], tokenizer, tmp_path / "whole.bin")
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 20)
    assert tokenize_files([text], tokenizer, tmp_path / "pieces.bin") == whole


def test_the_token_of_an_end_can_be_named(tokenizer_folder: Path) -> None:
    (tokenizer_folder / "tokenizer_config.json").unlink()
    file = str(tokenizer_folder / "tokenizer.json")
    assert load_tokenizer(file, "three").end_of_document == 4
    with pytest.raises(InputError, match=r"eos: no eos_token in tokenizer_config\.json beside it; --eos names"):
        load_tokenizer(file, None)
    with pytest.raises(InputError, match="eos: 'four' is no token of this tokenizer"):
        load_tokenizer(file, "four")


def test_names_are_looked_up_on_the_hub(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(name: str, file: str) -> Path | None:
        return tokenizer_folder / file if name == "someone/tokens" else None

    monkeypatch.setattr(module, "_fetched", fetched)
    assert load_tokenizer("someone/tokens", None).end_of_document == 1
    with pytest.raises(InputError, match=r"nobody/tokens: has no tokenizer\.json on the Hugging Face hub, or the hub"):
        load_tokenizer("nobody/tokens", None)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "a b", "./mine", "folder/tokenizer.json"])
def test_a_missing_tokenizer_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"--tokenizer: {name}: no such file or folder"):
        load_tokenizer(name, None)


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(str(tmp_path), None)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: no tokenizer: "):
        load_tokenizer(str(tmp_path), None)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"one \xff", r"a\.txt: byte 4: not UTF-8"),
        ("a.jsonl", b'{"text": "one"}\n{', r"a\.jsonl: line 2: not JSON"),
        ("a.jsonl", b'{"content": "one"}', r"a\.jsonl: line 1: has no text"),
        ("a.jsonl", b'{"text": 1}', r"a\.jsonl: line 1: has no text"),
        ("a.txt", b"", r"a\.txt: is empty, expected text"),
    ],
)
def test_bad_text_is_named_and_nothing_written(
    tokenizer_folder: Path, tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem):
        tokenize_files([tmp_path / name], load_tokenizer(str(tokenizer_folder), None), tmp_path / "tokens.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "tokenizer"])


def test_texts_are_not_overwritten(tokenizer_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("one")
    with pytest.raises(InputError, match="is one of the texts"):
        tokenize_files([text], load_tokenizer(str(tokenizer_folder), None), text)
    with pytest.raises(InputError, match=r"b\.txt: no such file, expected text"):
        tokenize_files([tmp_path / "b.txt"], load_tokenizer(str(tokenizer_folder), None), tmp_path / "t.bin")
