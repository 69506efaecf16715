"""Gradients brought to where the masters are: nothing to do, or copied to the host (ZeRO-Offload, arXiv 2101.06840)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meshwright.executor.state.flat import FlatParameters, host_room
from meshwright.planner.task_pool import available_workers


class BesideMasters:
    """Room in host memory for the gradients of shards whose masters are there.

    The CPU then updates with this rank's share of the host's cores: launchers leave a process one thread.
    """

    def __init__(self, flats: Sequence[FlatParameters]) -> None:
        self._rooms = [
            host_room(flat.weight_shard, flat.master.dtype) if flat.rounded is not flat.weight_shard else None
            for flat in flats
        ]
        self._waits = any(room is not None for room in self._rooms) and flats[0].weights.is_cuda
        if self._waits:
            torch.set_num_threads(max(1, available_workers() // torch.cuda.device_count()))

    def bring(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients beside their masters; waits for the device where they are copied."""
        brought = [
            gradient if room is None else room.copy_(gradient, non_blocking=True)
            for room, gradient in zip(self._rooms, gradients, strict=True)
        ]
        if self._waits:
            torch.cuda.current_stream().synchronize()
        return brought
