"""Host memory for tensors that wait there, used again and again."""

from __future__ import annotations

import torch
from torch import Tensor


class HostBuffers:
    """Buffers for tensors of a device, a power of two of bytes each: torch rounds pinned memory so anyway.

    Copies from and to them run in the order in which they are launched, so that a buffer which has been given back may
    be taken at once, whatever copy from it is still under way. There are never more than were in use at a time.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[Tensor]] = {}

    def take(self, num_bytes: int, *, pinned: bool) -> Tensor:
        """A buffer of so many bytes or more."""
        size = 1 << max(0, num_bytes - 1).bit_length()
        free = self._free.get(size)
        return free.pop() if free else torch.empty(size, dtype=torch.uint8, pin_memory=pinned)

    def give_back(self, buffer: Tensor) -> None:
        """The last copy from a buffer has been launched."""
        self._free.setdefault(buffer.nbytes, []).append(buffer)
