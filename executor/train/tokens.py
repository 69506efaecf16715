"""Where tokens come from: any source that gives the sequences of a step by their numbers, and a synthetic one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from meshwright.executor.seeds import seed_of


class TokenSource(Protocol):
    """Gives every rank the sequences that it needs, the same whoever asks."""

    def batch(self, step: int, sequences: range) -> Tensor:
        """Tokens of some sequences of a step's global batch: int64, (len(sequences), seq_len + 1), on the CPU."""


class SyntheticTokens:
    """Random sequences in which there is something to learn: every second token follows from the one before it.

    Token 2 i + 1 is (31 t + 7) mod V where t is token 2 i, which is uniform. A model that has learned this has a loss
    of ln(V) / 2.
    """

    def __init__(self, *, vocab: int, seq_len: int, seed: int) -> None:
        self._vocab = vocab
        self._seq_len = seq_len
        self._seed = seed

    def batch(self, step: int, sequences: range) -> Tensor:
        """The sequences of a step, each from a generator of its own."""
        return torch.stack([self._sequence(step, number) for number in sequences])

    def _sequence(self, step: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self._seed, "tokens", step, number))
        length = self._seq_len + 1
        drawn = torch.randint(self._vocab, ((length + 1) // 2,), generator=generator)
        return torch.stack((drawn, (31 * drawn + 7) % self._vocab), 1).flatten()[:length]
