"""Copies of a rank's pieces on the host, so that training goes on while they are written."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.checkpoint.pieces import Piece, ShardedState


class StagingBuffers:
    """Host copies, reused from save to save; pinned for pieces of a GPU, which then are copied side by side."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def copies(self, state: ShardedState) -> list[Piece]:
        """The same pieces in host memory. Valid until the next call."""
        staged = [self._copied(piece) for piece in state]
        if any(piece.tensor.is_cuda for piece in state):
            torch.cuda.current_stream().synchronize()
        return staged

    def _copied(self, piece: Piece) -> Piece:
        key, tensor = (piece.name, piece.offsets), piece.tensor.detach()
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer
        buffer.copy_(tensor, non_blocking=True)
        return Piece(name=piece.name, global_shape=piece.global_shape, offsets=piece.offsets, tensor=buffer)
