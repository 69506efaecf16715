"""A token file read as sequences: what is read, by whom, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.token_file import TokenFile, open_token_file, verify_tokens
from meshwright.executor.data.token_writer import write_tokens

SEQ_LEN, NUM_TOKENS = 4, 41
Open = Callable[..., TokenFile]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Tokens 0 to 40, ten windows of four."""
    path = tmp_path / "tokens.bin"
    write_tokens([range(NUM_TOKENS)], path, vocabulary=64, tokenizer="none", end_of_document=None)
    return path


@pytest.fixture
def opened(path: Path) -> Open:
    def make(**changes: int) -> TokenFile:
        sizes = {"vocabulary": 64, "seq_len": SEQ_LEN, "global_batch": 5, "seed": 3}
        return open_token_file(path, **{**sizes, **changes})

    return make


def test_an_epoch_reads_every_window_once(opened: Open) -> None:
    source = opened()
    assert source.num_windows == 10
    rows = torch.cat([source.batch(step, range(5)) for step in (0, 1)])
    assert sorted(rows[:, 0].tolist()) == list(range(0, 40, 4))
    assert torch.equal(rows - rows[:, :1], torch.arange(5).expand(10, 5))


def test_the_next_epoch_has_another_order(opened: Open) -> None:
    source = opened()
    first, second = (torch.cat([source.batch(step + i, range(5)) for i in (0, 1)])[:, 0] for step in (0, 2))
    assert sorted(first.tolist()) == sorted(second.tolist())
    assert not torch.equal(first, second)


def test_a_step_may_reach_into_the_next_epoch(opened: Open) -> None:
    whole = opened(global_batch=1)
    expected = torch.cat([whole.batch(step, range(1)) for step in range(7, 14)])
    assert torch.equal(opened(global_batch=7).batch(1, range(7)), expected)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_ranks_share_what_one_would_read(opened: Open, ranks: int) -> None:
    source, each = opened(global_batch=6), 6 // ranks
    parts = [source.batch(4, range(rank * each, (rank + 1) * each)) for rank in range(ranks)]
    assert torch.equal(torch.cat(parts), source.batch(4, range(6)))


def test_it_is_a_function_of_seed_step_and_position(opened: Open) -> None:
    assert torch.equal(opened().batch(1, range(2, 4)), opened().batch(1, range(5))[2:4])
    assert not torch.equal(opened(seed=4).batch(1, range(5)), opened().batch(1, range(5)))
    assert opened().batch(0, range(0)).shape == (0, SEQ_LEN + 1)


def test_positions_outside_the_batch_are_refused(opened: Open) -> None:
    with pytest.raises(InputError, match="below the global batch of 5"):
        opened().batch(0, range(4, 6))


def test_large_ids_take_four_bytes(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    write_tokens([[70_000, 1, 2]], path, vocabulary=70_001, tokenizer="none", end_of_document=0)
    source = open_token_file(path, vocabulary=70_001, seq_len=3, global_batch=1, seed=0)
    assert source.batch(0, range(1)).tolist() == [[70_000, 1, 2, 0]]
    assert path.stat().st_size == 16


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.bin: no such file, expected tokens"):
        open_token_file(tmp_path / "none.bin", vocabulary=8, seq_len=4, global_batch=1, seed=0)


def test_a_missing_header_is_named(opened: Open, path: Path) -> None:
    path.with_name("tokens.bin.json").unlink()
    with pytest.raises(InputError, match=r"tokens\.bin\.json: no such file, expected the header"):
        opened()


def test_truncated_data_are_refused(opened: Open, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"tokens\.bin: has 80 bytes, expected 82 \(41 tokens of uint16"):
        opened()


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("dtype", "uint32", r"has 82 bytes, expected 164"),
        ("dtype", "float32", r"tokens\.bin\.json: dtype: Invalid enum value 'float32'"),
        ("num_tokens", "many", r"tokens\.bin\.json: num_tokens: Expected `int`, got `str`"),
        ("num_tokens", -20, r"tokens\.bin\.json: num_tokens: -20, expected 0 or more"),
        ("schema_version", 9, r"tokens\.bin\.json: schema_version: 9, expected 1"),
    ],
)
def test_another_header_is_refused(opened: Open, path: Path, field: str, value: object, problem: str) -> None:
    header = path.with_name("tokens.bin.json")
    header.write_text(json.dumps({**json.loads(header.read_text()), field: value}))
    with pytest.raises(InputError, match=problem):
        opened()


def test_a_token_beyond_the_vocabulary_is_named_with_its_place(opened: Open) -> None:
    with pytest.raises(InputError, match=r"tokens\.bin: token 17: 17, beyond the model's vocabulary; .* below 17"):
        opened(vocabulary=17)


def test_a_token_changed_behind_the_header_is_found_when_read(opened: Open, path: Path) -> None:
    tokens = np.fromfile(path, dtype="<u2")
    tokens[13] = 999
    tokens.tofile(path)
    with pytest.raises(InputError, match=r"token 13: 999"):
        opened(global_batch=10).batch(0, range(10))
    with pytest.raises(InputError, match="the tokens were changed"):
        verify_tokens(path)


def test_less_than_a_sequence_is_refused(opened: Open) -> None:
    with pytest.raises(InputError, match=r"num_tokens: 41, shorter than one sequence; .* seq_len \+ 1 = 42"):
        opened(seq_len=41)
    assert opened(seq_len=40).num_windows == 1


@pytest.mark.parametrize("name", ["vocabulary", "seq_len", "global_batch"])
def test_sizes_are_positive(opened: Open, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: 0, expected a positive"):
        opened(**{name: 0})


def test_an_unchanged_file_is_verified(path: Path) -> None:
    verify_tokens(path)
