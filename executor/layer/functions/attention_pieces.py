"""Causal attention piece by piece: the queries of one context-parallel rank against the keys of one after the other.

Rank c of n holds parts c and 2 n - 1 - c of a sequence's 2 n parts (zig-zag), so that every rank scores as many pairs.
Two ranks then meet in one of three ways, and none needs a mask but the usual one or none at all. Results of pieces are
put together by the logs of their softmax's sums. Source: ring attention (arXiv 2310.01889); zig-zag: Llama 3 (arXiv
2407.21783, section 3.3.2). (B, N, S, D) throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.executor.layer.functions.masks import ALL, CAUSAL, Mask
from meshwright.executor.layer.functions.statistics import statistics_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Which of a rank's queries see which keys of another rank, (first, number) each, and how."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    mask: Mask

    def of_queries(self, x_BNS: Tensor) -> Tensor:
        """The queries' part of a tensor, as a view."""
        return x_BNS.narrow(2, *self.queries)

    def of_keys(self, x_BNS: Tensor) -> Tensor:
        """The keys' part of a tensor, as a view."""
        return x_BNS.narrow(2, *self.keys)


def piece_of(own: int, other: int, length: int) -> Piece:
    """How the queries of rank `own` see the keys of rank `other`; each has `length` positions, its two parts in order.

    >>> piece_of(1, 0, 8).keys, piece_of(0, 1, 8).queries
    ((0, 4), (4, 4))
    """
    half = length // 2
    if other == own:
        return Piece(queries=(0, length), keys=(0, length), mask=CAUSAL)
    if other < own:  # its first part lies before both of ours, its second behind
        return Piece(queries=(0, length), keys=(0, half), mask=ALL)
    return Piece(queries=(half, half), keys=(0, length), mask=ALL)  # all of it lies before our second part


class RunningSoftmax:
    """The output over the pieces so far, in float32 or wider, and the log of the softmax's sums, (B, N, S)."""

    def __init__(self, query: Tensor, value_width: int) -> None:
        wide = statistics_type(query.dtype)
        self.out = query.new_zeros((*query.shape[:3], value_width), dtype=wide)
        self.sums = query.new_full(query.shape[:3], float("-inf"), dtype=wide)

    def add(self, piece: Piece, out: Tensor, sums: Tensor) -> None:
        """Add a piece: weights of what is there and of what comes are their shares of the sums."""
        total, before = piece.of_queries(self.out), piece.of_queries(self.sums)
        coming = sums.flatten(2).to(before.dtype)  # some kernels have a last dim of 1
        after = torch.logaddexp(before, coming)
        total.mul_((before - after).exp_().unsqueeze(-1))
        total.add_(out * (coming - after).exp_().unsqueeze(-1))
        before.copy_(after)
