"""Synthetic tokens: uniform or Zipf, to measure speed with; a Markov chain, to see a loss fall to a known floor.

Random numbers come from a counter-based generator (Philox: Salmon et al., SC 2011) that starts anew for every sequence,
from its seed and its number in the run. Its raw bits are the same in all releases of NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.source import check_sizes, sample_numbers

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
TABLE_STREAM = 1
SEQUENCE_STREAM = 0


def uniforms(seed: int, stream: int, number: int, count: int) -> Floats:
    """`count` numbers in [0, 1) that belong to (seed, stream, number)."""
    generator = np.random.Philox(key=seed & ((1 << 64) - 1), counter=(number << 128) | (stream << 64))
    bits: npt.NDArray[np.uint64] = generator.random_raw(count)
    return np.ldexp((bits >> np.uint64(11)).astype(np.float64), -53)


@dataclass(frozen=True, kw_only=True)
class _Synthetic:
    vocabulary: int
    seq_len: int
    global_batch: int
    seed: int

    def __post_init__(self) -> None:
        check_sizes("synthetic data", vocabulary=self.vocabulary, seq_len=self.seq_len, global_batch=self.global_batch)

    def _uniforms(self, step: int, sequences: range) -> Floats:
        """Numbers in [0, 1), (len(sequences), seq_len + 1)."""
        numbers = sample_numbers(step, sequences, self.global_batch)
        rows = [uniforms(self.seed, SEQUENCE_STREAM, number, self.seq_len + 1) for number in numbers]
        return np.array(rows).reshape(len(rows), self.seq_len + 1)


@dataclass(frozen=True, kw_only=True)
class UniformTokens(_Synthetic):
    """Every token as likely as every other, independent of all: nothing to learn, the loss stays ln(vocabulary)."""

    @property
    def identity(self) -> str:
        """The stream's name and vocabulary."""
        return f"uniform of {self.vocabulary}"

    def batch(self, step: int, sequences: range) -> Tensor:
        """The sequences at these positions of a step's global batch: int64, (len(sequences), seq_len + 1)."""
        return torch.from_numpy((self._uniforms(step, sequences) * self.vocabulary).astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class ZipfTokens(_Synthetic):
    """Independent tokens; token i has a probability proportional to (i + 1)^-exponent."""

    exponent: float = 1.0

    @property
    def identity(self) -> str:
        """The stream's name, vocabulary and exponent."""
        return f"zipf of {self.vocabulary}, exponent {self.exponent:g}"

    @cached_property
    def _ends(self) -> Floats:
        weights = np.arange(1, self.vocabulary + 1, dtype=np.float64) ** -self.exponent
        ends: Floats = np.cumsum(weights / weights.sum())
        return ends

    @property
    def entropy_nats(self) -> float:
        """The smallest loss that any model can reach, a token."""
        shares = np.diff(self._ends, prepend=0.0)
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum())

    def batch(self, step: int, sequences: range) -> Tensor:
        """The sequences at these positions of a step's global batch: int64, (len(sequences), seq_len + 1)."""
        drawn = np.searchsorted(self._ends, self._uniforms(step, sequences), side="right")
        return torch.from_numpy(np.minimum(drawn, self.vocabulary - 1).astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class MarkovTokens(_Synthetic):
    """A random Markov chain: each token has `branching` successors, each half as likely as the one before.

    The chain depends on seed, vocabulary and branching alone. Successors of token t are u_t + j floor(V / branching)
    mod V with u_t drawn evenly: distinct, so that the floor of the loss is known exactly.
    """

    branching: int = 4

    @property
    def identity(self) -> str:
        """The stream's name, vocabulary and branching."""
        return f"markov of {self.vocabulary}, branching {self.branching}"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.branching <= self.vocabulary:
            raise InputError("synthetic data", "branching", f"{self.branching}, expected 1 to {self.vocabulary}")

    @cached_property
    def _successors(self) -> Integers:
        """(vocabulary, branching)."""
        drawn = uniforms(self.seed, TABLE_STREAM, 0, self.vocabulary)
        first = (drawn * self.vocabulary).astype(np.int64)
        steps = np.arange(self.branching) * (self.vocabulary // self.branching)
        successors: Integers = np.add.outer(first, steps) % self.vocabulary
        return successors

    @cached_property
    def _shares(self) -> Floats:
        weights = np.ldexp(1.0, -np.arange(self.branching))
        shares: Floats = weights / weights.sum()
        return shares

    @property
    def entropy_nats(self) -> float:
        """The smallest loss that any model can reach, a token behind the first: -sum p ln p."""
        return float(-(self._shares * np.log(self._shares)).sum())

    def batch(self, step: int, sequences: range) -> Tensor:
        """The sequences at these positions of a step's global batch: int64, (len(sequences), seq_len + 1)."""
        drawn = self._uniforms(step, sequences)
        choices = np.minimum(np.searchsorted(np.cumsum(self._shares), drawn, side="right"), self.branching - 1)
        tokens = np.empty(drawn.shape, dtype=np.int64)
        tokens[:, 0] = (drawn[:, 0] * self.vocabulary).astype(np.int64)
        for place in range(1, self.seq_len + 1):
            tokens[:, place] = self._successors[tokens[:, place - 1], choices[:, place]]
        return torch.from_numpy(tokens)
