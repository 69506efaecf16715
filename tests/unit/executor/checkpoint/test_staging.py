"""Copies on the host: what training does next does not reach them."""

from __future__ import annotations

import pytest
import torch

from meshwright.executor.checkpoint.pieces import Piece, ShardedState
from meshwright.executor.checkpoint.staging import StagingBuffers


def _state(device: str) -> tuple[torch.Tensor, ShardedState]:
    """Columns of a matrix, which are no contiguous memory, and an empty piece."""
    matrix = torch.arange(12.0, device=device).view(3, 4)
    piece = Piece(name="w", global_shape=(3, 8), offsets=(0, 4), tensor=matrix[:, 1:3])
    empty = Piece(name="e", global_shape=(3, 8), offsets=(3, 0), tensor=matrix[:0])
    return matrix, ShardedState([piece, empty])


def _check(device: str) -> None:
    matrix, state = _state(device)
    assert (len(state), state.num_bytes) == (1, 24)
    buffers = StagingBuffers()
    (first,) = buffers.copies(state)
    matrix += 100
    assert first.tensor.tolist() == [[1, 2], [5, 6], [9, 10]]
    assert (first.name, first.offsets, first.tensor.is_contiguous()) == ("w", (0, 4), True)
    (second,) = buffers.copies(state)
    assert second.tensor.data_ptr() == first.tensor.data_ptr()
    assert second.tensor.tolist() == [[101, 102], [105, 106], [109, 110]]


def test_copies_are_reused() -> None:
    _check("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_of_a_gpu_are_there_when_the_call_returns() -> None:
    _check("cuda")
