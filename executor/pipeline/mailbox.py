"""Hidden states and their gradients on their way between stages: to other devices, or kept for this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.executor.pipeline.instructions import Passage, Receive, Send
from meshwright.executor.ranks.communicators import Communicators


class Mailbox:
    """The messages of one rank. `make_buffer` gives an empty tensor for what arrives: all have one shape."""

    def __init__(self, communicators: Communicators, make_buffer: Callable[[], Tensor]) -> None:
        self._ranks = communicators.place.across_stages(tuple(range(communicators.place.mesh.pp)))
        self._group = communicators.pipeline.group
        self._make_buffer = make_buffer
        self._arriving: dict[Passage, tuple[Tensor, dist.Work]] = {}
        self._kept: dict[Passage, Tensor] = {}
        self._leaving: deque[tuple[Tensor, dist.Work]] = deque()

    def put(self, passage: Passage, tensor: Tensor) -> None:
        """Keep what an action has yielded until it is sent, or taken by another chunk of this device."""
        self._kept[passage] = tensor

    def send(self, message: Send) -> None:
        """Send what was kept; it stays alive until it has left."""
        while self._leaving and self._leaving[0][1].is_completed():
            self._leaving.popleft()
        tensor = self._kept.pop(message.passage).contiguous()
        work = dist.isend(tensor, self._ranks[message.device], group=self._group, tag=_tag(message.passage))
        assert work is not None  # this rank is in the group
        self._leaving.append((tensor, work))

    def expect(self, message: Receive) -> None:
        """Begin to receive."""
        buffer = self._make_buffer()
        work = dist.irecv(buffer, self._ranks[message.device], group=self._group, tag=_tag(message.passage))
        assert work is not None  # this rank is in the group
        self._arriving[message.passage] = buffer, work

    def has_kept(self, passage: Passage) -> bool:
        """Whether this device has what an action needs, so that nothing is to be waited for."""
        return passage in self._kept

    def take(self, passage: Passage) -> Tensor:
        """What an action needs: waits for it, the device's stream on CUDA, the host elsewhere."""
        if self.has_kept(passage):
            return self._kept.pop(passage)
        buffer, work = self._arriving.pop(passage)
        work.wait()
        return buffer

    def finish(self) -> None:
        """Wait until everything has left."""
        while self._leaving:
            self._leaving.popleft()[1].wait()


def _tag(passage: Passage) -> int:
    """Tells apart what two stages send each other, whatever the chunks: activations even, gradients odd."""
    is_gradient = passage.target < passage.source
    return (passage.micro_batch * 4096 + min(passage.source, passage.target)) * 2 + is_gradient


def empty_hidden(num_tokens: int, hidden: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Room for a rank's part of a micro-batch between stages, (T, H)."""
    return torch.empty((num_tokens, hidden), dtype=dtype, device=device)
