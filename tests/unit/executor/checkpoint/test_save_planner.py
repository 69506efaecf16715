"""What ranks plan together to save."""

from __future__ import annotations

import pytest
import torch

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.pieces import Piece
from meshwright.executor.checkpoint.save_planner import PieceSavePlanner, saved_tensors


def _piece(rows: int, at: int, *, dtype: torch.dtype = torch.float32, of: int = 6) -> Piece:
    return Piece(name="w", global_shape=(of, 2), offsets=(at, 0), tensor=torch.zeros(rows, 2, dtype=dtype))


def _planned(*ranks: list[Piece]) -> PieceSavePlanner:
    planners = [PieceSavePlanner(pieces) for pieces in ranks]
    plans = [planner.create_local_plan() for planner in planners]
    planners[0].create_global_plan(plans)
    return planners[0]


def test_equal_pieces_are_written_once() -> None:
    planner = _planned([_piece(4, 0), _piece(2, 4)], [_piece(2, 4)], [_piece(2, 4)])
    assert sum(len(plan.items) for plan in planner.global_plan) == 2
    chunks = saved_tensors(planner.metadata)["w"].chunks
    assert sorted((tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in chunks) == [
        ((0, 0), (4, 2)),
        ((4, 0), (2, 2)),
    ]


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (
            _piece(3, 3, of=7),
            r"w: shape \(7, 2\) of torch\.float32 on rank 1, expected shape \(6, 2\) of torch\.float32",
        ),
        (
            _piece(3, 3, dtype=torch.float64),
            r"w: shape \(6, 2\) of torch\.float64 on rank 1, expected .* torch\.float32",
        ),
        (_piece(2, 0), r"w: a part of shape \(2, 2\) at \(0, 0\) on rank 1, expected \(3, 2\) as on ranks before"),
        (_piece(2, 3), r"w: parts of 10 elements in all, expected 12"),
    ],
)
def test_contradictions_are_named(second: Piece, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        _planned([_piece(3, 0)], [second])


def test_parts_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="Failed to validate global plan"):
        _planned([_piece(4, 0)], [_piece(2, 3)])
