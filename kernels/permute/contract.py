"""What moving rows takes and gives.

T tokens, K choices, H hidden, P rows of the buffer. Rows are bfloat16 or float32, gate weights float32, sums float32 in
the order of a token's choices. Rows that fill up a group are zero. Rows behind the last group are left as they are:
nothing may read them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.tensors import check_dims, check_shape

PERMUTE = "permute"
UNPERMUTE = "unpermute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Permuted:
    """rows_PH; gates_P (float32), the gate weight of each row, where weights were given."""

    rows_PH: Tensor
    gates_P: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PermuteGradients:
    """tokens_TH; weights_TK, where gates were permuted."""

    tokens_TH: Tensor
    weights_TK: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpermuteGradients:
    """rows_PH; weights_TK (float32), where rows were weighted."""

    rows_PH: Tensor
    weights_TK: Tensor | None


def check_tokens(operation: str, tokens_TH: Tensor, rowmap: RowMap) -> None:
    """Raise unless there is a row for each token of the map."""
    check_dims(operation, "tokens", tokens_TH, 2)
    check_shape(operation, "tokens", tokens_TH, (rowmap.places_TK.shape[0], tokens_TH.shape[1]))


def check_rows(operation: str, rows_PH: Tensor, rowmap: RowMap) -> None:
    """Raise unless there is a row for each of the map."""
    check_dims(operation, "rows", rows_PH, 2)
    check_shape(operation, "rows", rows_PH, (rowmap.capacity, rows_PH.shape[1]))


def check_weights(operation: str, weights_TK: Tensor | None, rowmap: RowMap) -> None:
    """Raise unless there is a weight for each slot."""
    if weights_TK is None:
        return
    check_shape(operation, "weights", weights_TK, tuple(rowmap.places_TK.shape))
    if not weights_TK.is_floating_point():
        raise KernelInputError(f"{operation}: weights are {weights_TK.dtype}, expected float32")


def permute_bytes(num_tokens: int, num_rows: int, row_bytes: int) -> int:
    """Bytes that must move between tokens and rows, either way: each token's row once, each expert's row once.

    >>> permute_bytes(2, 4, 16)
    96
    """
    return (num_tokens + num_rows) * row_bytes


def weighted_backward_bytes(num_tokens: int, num_rows: int, row_bytes: int) -> int:
    """Bytes that must move in the backward of a weighted unpermute: gradients and rows in, rows' gradients out.

    >>> weighted_backward_bytes(2, 4, 16)
    160
    """
    return (num_tokens + 2 * num_rows) * row_bytes
