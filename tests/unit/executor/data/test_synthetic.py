"""Synthetic streams: reproducible, sharded by position, with the statistics they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.source import TokenSource
from meshwright.executor.data.synthetic import MarkovTokens, UniformTokens, ZipfTokens

KINDS = [UniformTokens, ZipfTokens, MarkovTokens]
UNIFORM = [[1, 24, 11, 56, 50, 27]]


@pytest.mark.parametrize("stream", KINDS)
def test_ranks_share_what_one_would_read(stream: type[UniformTokens]) -> None:
    source: TokenSource = stream(vocabulary=50, seq_len=16, global_batch=6, seed=1)
    whole = source.batch(3, range(6))
    assert whole.dtype is torch.int64
    assert whole.shape == (6, 17)
    assert torch.equal(torch.cat([source.batch(3, range(i, i + 2)) for i in (0, 2, 4)]), whole)
    assert 0 <= int(whole.min()) <= int(whole.max()) < 50


@pytest.mark.parametrize("stream", KINDS)
def test_steps_seeds_and_positions_differ(stream: type[UniformTokens]) -> None:
    source = stream(vocabulary=50, seq_len=16, global_batch=4, seed=1)
    other = stream(vocabulary=50, seq_len=16, global_batch=4, seed=2)
    rows = [*source.batch(0, range(4)), *source.batch(1, range(4)), *other.batch(0, range(4))]
    assert len({tuple(row.tolist()) for row in rows}) == 12


def test_streams_stay_what_they_are() -> None:
    assert UniformTokens(vocabulary=100, seq_len=5, global_batch=1, seed=0).batch(0, range(1)).tolist() == UNIFORM


def test_uniform_tokens_are_even() -> None:
    tokens = UniformTokens(vocabulary=8, seq_len=7999, global_batch=1, seed=0).batch(0, range(1))
    counts = torch.bincount(tokens.flatten(), minlength=8)
    assert (counts - 1000).abs().max() < 5 * 1000**0.5


def test_zipf_tokens_fall_by_their_rank() -> None:
    source = ZipfTokens(vocabulary=4, seq_len=11_999, global_batch=1, seed=0)
    counts = torch.bincount(source.batch(0, range(1)).flatten(), minlength=4)
    expected = 12_000 / torch.tensor([1.0, 2, 3, 4]) / (25 / 12)
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()
    shares = np.array([12, 6, 4, 3]) / 25
    assert source.entropy_nats == pytest.approx(-(shares * np.log(shares)).sum())


def test_a_chain_can_be_learnt_down_to_its_entropy() -> None:
    source = MarkovTokens(vocabulary=16, seq_len=4000, global_batch=8, seed=5)
    tokens = source.batch(0, range(8))
    counts = torch.zeros(16, 16, dtype=torch.float64)
    counts.index_put_((tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), torch.ones(1).double(), accumulate=True)
    shares = counts / counts.sum()
    given = counts / counts.sum(1, keepdim=True).clamp_min(1)
    conditional = -torch.special.xlogy(shares, given).sum().item()
    assert conditional == pytest.approx(source.entropy_nats, rel=0.02)
    assert source.entropy_nats < 0.5 * math.log(16)
    assert (counts > 0).sum(1).max() <= 4


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="synthetic data: vocabulary: 0"):
        UniformTokens(vocabulary=0, seq_len=1, global_batch=1, seed=0)
    with pytest.raises(InputError, match="branching: 4, expected 1 to 3"):
        MarkovTokens(vocabulary=3, seq_len=1, global_batch=1, seed=0)
    with pytest.raises(InputError, match="step: -1"):
        UniformTokens(vocabulary=3, seq_len=1, global_batch=1, seed=0).batch(-1, range(1))
