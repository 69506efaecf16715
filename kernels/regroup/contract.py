"""Where each row that other ranks sent goes: from (source rank, expert, token) to (expert, source rank, token).

S source ranks, E experts here, R rows that arrived. What a rank sends is sorted by expert: its rows of an expert
lie side by side, and how many there are of each says where every row stands and goes. The map is that of `index`, a row
being a token with one choice: `places_TK` is (R, 1). What the sources sent lies side by side or, in parts, in a part of
R / S rows for each. Rows that the counts do not tell of go nowhere: their place is -1. The counts may not tell of more
rows than there are, in any part.
"""

from __future__ import annotations

from torch import Tensor

from meshwright.kernels.errors import KernelInputError

OPERATION = "regroup"


def check_regroup(counts_SE: Tensor, num_rows: int, tile: int, *, in_parts: bool) -> None:
    """Raise where that can't be regrouped. That the counts add up to the rows is not looked at: it would wait."""
    if counts_SE.dim() != 2 or counts_SE.is_floating_point() or counts_SE.numel() == 0:
        raise KernelInputError(
            f"{OPERATION}: counts are {counts_SE.dtype} of shape {tuple(counts_SE.shape)}, expected int32 (S, E)"
        )
    if num_rows < 0 or tile < 1:
        raise KernelInputError(f"{OPERATION}: {num_rows} rows in tiles of {tile}, expected 0 and 1 or more")
    if in_parts and num_rows % counts_SE.shape[0]:
        raise KernelInputError(f"{OPERATION}: {num_rows} rows are no equal parts of {counts_SE.shape[0]} sources")


def moved_bytes(num_rows: int, num_sources: int, num_experts: int) -> int:
    """Bytes that must move: counts in, both maps out, counts and offsets out.

    >>> moved_bytes(16, 2, 4)
    192
    """
    return 4 * (2 * num_rows + num_sources * num_experts) + 8 * num_experts
