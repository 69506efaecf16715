"""Rows sorted by expert and summed back. Sums over a token's rows take no atomics: each token picks up its rows, so
that results are the same in every run.

R = T K slots, one for each choice of a token; slots_R: slots in the order of experts; places_TK: where each stands.
"""

from __future__ import annotations

from torch import Tensor


def sorted_rows(x_TH: Tensor, weights_TK: Tensor, slots_R: Tensor) -> tuple[Tensor, Tensor]:
    """A row for each slot, (R, H), and its gate weight, (R, 1)."""
    rows = x_TH.index_select(0, slots_R // weights_TK.shape[1])
    return rows, slot_weights(weights_TK, slots_R)


def slot_weights(weights_TK: Tensor, slots_R: Tensor) -> Tensor:
    """The gate weight of every row, (R, 1)."""
    return weights_TK.flatten().index_select(0, slots_R).unsqueeze(1)


def by_token(rows_RW: Tensor, places_TK: Tensor) -> Tensor:
    """The rows of each token, (T, K, W)."""
    gathered: Tensor = rows_RW.index_select(0, places_TK.flatten()).unflatten(0, places_TK.shape)
    return gathered


def summed_rows(rows_RH: Tensor, places_TK: Tensor) -> Tensor:
    """The sum of each token's rows, (T, H)."""
    return by_token(rows_RH, places_TK).sum(1)


def token_gradients(grad_TH: Tensor, slots_R: Tensor, top_k: int) -> Tensor:
    """Each row gets its token's gradient, (R, H)."""
    return grad_TH.index_select(0, slots_R // top_k)
