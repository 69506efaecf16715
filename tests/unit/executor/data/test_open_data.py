"""Data by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.open_data import open_data
from meshwright.executor.data.source import TokenSource
from meshwright.executor.data.token_writer import write_tokens


def _open(name: str) -> TokenSource:
    return open_data(name, vocabulary=32, seq_len=4, global_batch=2, seed=1)


@pytest.mark.parametrize(
    ("name", "identity"),
    [("uniform", "uniform of 32"), ("zipf", "zipf of 32, exponent 1"), ("markov", "markov of 32, branching 4")],
)
def test_streams_have_names(name: str, identity: str) -> None:
    source = _open(name)
    assert source.batch(0, range(2)).shape == (2, 5)
    assert source.identity == identity


def test_other_names_are_files(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    header = write_tokens([range(20)], path, vocabulary=32, tokenizer="none", end_of_document=None)
    assert _open(str(path)).identity == header.sha256
    with pytest.raises(InputError, match=r"none\.bin: no such file"):
        _open(str(tmp_path / "none.bin"))


def test_text_is_sent_to_the_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.txt: text, expected a token file: `meshwright tokenize` makes one"):
        _open(str(tmp_path / "a.txt"))
