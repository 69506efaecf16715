"""SIGTERM: how schedulers and torchrun ask a job to end."""

from __future__ import annotations

import signal
from types import FrameType

from meshwright.costmodel.errors import MeshwrightError

STOPPED_STATUS = 128 + signal.SIGTERM
"""What a shell gives for a process that ended by SIGTERM: training is not done, so a script must not go on as if it
were, and a scheduler can tell such a job from one that failed."""


class StoppedError(MeshwrightError):
    """The run was asked to end, has saved, and ends."""

    exit_status = STOPPED_STATUS


class StopSignal:
    """Remembers SIGTERM from when it is made on, in the process's main thread, until `close`."""

    def __init__(self) -> None:
        self.asked = False
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def close(self) -> None:
        """SIGTERM does what it did before."""
        signal.signal(signal.SIGTERM, self._before)
