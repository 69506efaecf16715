"""Where collectives of the sharded state run: beside the layers on a stream of their own, or in line with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from meshwright.executor.layer.cuda_streams import PRIORITY

Mark = torch.cuda.Event | None
"""A place in the order of a lane; None where all that came before is in line anyway."""


class Lane:
    """`overlaps`: what the lane does may run beside the layers. Without a stream (CPU) it is in line all the same."""

    def __init__(self, *, overlaps: bool, stream: torch.cuda.Stream | None = None) -> None:
        self.overlaps = overlaps
        self._stream = stream if overlaps else None

    @contextmanager
    def behind_all(self) -> Iterator[None]:
        """What is launched inside begins when all that was launched before has ended."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield

    def mark(self) -> Mark:
        """The end of what the lane has been given so far."""
        return None if self._stream is None else self._stream.record_event()

    def wait(self, mark: Mark) -> None:
        """Layers go on when the lane has come to a mark; the host does not wait."""
        if mark is not None:
            torch.cuda.current_stream().wait_event(mark)


def make_lanes(device: torch.device, *, gathers_beside: bool, reduces_beside: bool) -> tuple[Lane, Lane]:
    """Those of gathers and of reductions: one stream, as the simulator has it, since both take the same links."""
    uses_stream = device.type == "cuda" and (gathers_beside or reduces_beside)
    stream = torch.cuda.Stream(device, priority=PRIORITY) if uses_stream else None
    return Lane(overlaps=gathers_beside, stream=stream), Lane(overlaps=reduces_beside, stream=stream)
