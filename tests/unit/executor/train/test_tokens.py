"""Synthetic tokens are the same whoever asks, and there is something to learn."""

from __future__ import annotations

import torch

from meshwright.executor.train.tokens import SyntheticTokens

TOKENS = SyntheticTokens(vocab=50, seq_len=8, seed=1)


def test_ranks_see_parts_of_the_same_batch() -> None:
    whole = TOKENS.batch(3, range(6))
    assert whole.shape == (6, 9)
    assert whole.dtype is torch.int64
    assert torch.equal(torch.cat([TOKENS.batch(3, range(2)), TOKENS.batch(3, range(2, 6))]), whole)


def test_steps_sequences_and_seeds_differ() -> None:
    batch = TOKENS.batch(0, range(2))
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(batch, TOKENS.batch(1, range(2)))
    assert not torch.equal(batch, SyntheticTokens(vocab=50, seq_len=8, seed=2).batch(0, range(2)))


def test_every_second_token_follows_from_the_one_before() -> None:
    batch = TOKENS.batch(0, range(4))
    assert torch.equal(batch[:, 1:8:2], (31 * batch[:, 0:8:2] + 7) % 50)
    assert 0 <= int(batch.min()) <= int(batch.max()) < 50
