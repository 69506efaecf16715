"""The streams of a CUDA device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import Resource

PRIORITY = -1
"""Of the streams beside the compute stream: above its own. The thread blocks of a collective are few; behind those of a
large product in the queue, they would begin when it ends."""


class CudaStreams:
    """A stream for each link and for the copy engine; the compute stream is whichever is current.

    A collective that is not asynchronous is launched on the current stream, as are NCCL's kernels since torch 2.8; the
    kernels of one communicator run in the order of their launch, whatever their streams.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside = {
            resource: torch.cuda.Stream(device, priority=PRIORITY)
            for resource in Resource
            if resource is not Resource.COMPUTE
        }

    def on(self, stream: Resource) -> AbstractContextManager[object]:
        """What runs inside is issued to the stream."""
        return nullcontext() if stream is Resource.COMPUTE else torch.cuda.stream(self._beside[stream])

    def record(self, stream: Resource) -> torch.cuda.Event:
        """An event behind all that the stream has been given."""
        event = torch.cuda.Event()
        event.record(self._of(stream))
        return event

    def wait(self, stream: Resource, event: object) -> None:
        """What the stream is given from now on runs behind the event."""
        assert isinstance(event, torch.cuda.Event)  # recorded here
        self._of(stream).wait_event(event)

    def share(self, tensor: Tensor) -> None:
        """The allocator asks the compute stream, too, before it gives the tensor's memory to another."""
        tensor.record_stream(torch.cuda.current_stream(self._device))

    def _of(self, stream: Resource) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device) if stream is Resource.COMPUTE else self._beside[stream]
