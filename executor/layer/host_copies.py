"""Whose tensors a rank's copies between GPU and host move: in each pass those of another layer.

As the cost model has it (`costmodel/offload.py`): a layer's tensors leave while the forward behind its own runs, and
return while the backward before its own does, so that two layers' tensors are on the GPU at a time. What that leaves
open is where forwards and backwards meet. A layer whose backward comes before the next forward keeps its tensors. The
backward of another micro-batch does not begin before those of the last forward are gone, nor before its own are there.
"""

from __future__ import annotations

from meshwright.costmodel.program.operators import Pass
from meshwright.executor.layer.host_buffers import HostBuffers
from meshwright.executor.layer.offloaded import OffloadedTensors
from meshwright.executor.layer.values import Values


class HostCopies:
    """What leaves next and what comes next, for all layers of a rank, in the order of its passes."""

    def __init__(self) -> None:
        self.buffers = HostBuffers()
        self._leaving: OffloadedTensors | None = None
        self._coming: OffloadedTensors | None = None

    def end_forward(self, tensors: OffloadedTensors) -> None:
        """The forward of a layer has been issued, and with it the copy of what was to leave; its own are next."""
        if tensors.names:
            self._leaving = tensors

    def begin_backward(self, tensors: OffloadedTensors, following: OffloadedTensors | None) -> None:
        """The backward of a layer is about to be issued, in which the tensors come that the `following` one needs."""
        self._coming = following
        if not tensors.names:
            return
        if self._leaving is tensors:
            self._leaving = None
            return
        if self._leaving is not None:
            self._leaving.leave_in_line()
            self._leaving = None
        tensors.settle()

    def moves(self, phase: Pass) -> bool:
        """Whether the copy of a pass has something to move."""
        if phase is Pass.FORWARD:
            return self._leaving is not None
        return self._coming is not None and self._coming.is_away

    def send(self, through: Values) -> None:
        """The copy to the host in a forward."""
        if self._leaving is not None:
            self._leaving.leave(through)
            self._leaving = None

    def fetch(self, through: Values) -> None:
        """The copy back in a backward."""
        if self._coming is not None:
            self._coming.come(through)
