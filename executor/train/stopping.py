"""SIGTERM, by which schedulers and torchrun ask a job to end, and SIGINT, by which people do (Ctrl-C)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, TypeAlias

from meshwright.costmodel.errors import MeshwrightError

Handler: TypeAlias = Callable[[int, FrameType | None], None]
ASKED_BY = (signal.SIGTERM, signal.SIGINT)
STOPPED_STATUSES = tuple(128 + number for number in ASKED_BY)
"""What a shell gives for a process that ended by such a signal: training is not done, so a script must not go on as if
it were, and a scheduler can tell such a job from one that failed."""


class StoppedError(MeshwrightError):
    """The run was asked to end, has saved if it could, and ends. `saved`: what it has saved and where, in words."""

    def __init__(self, number: signal.Signals, saved: str = "") -> None:
        super().__init__(" ".join(filter(None, (f"run: stopped by {number.name}", saved))))
        self.saved = saved
        self.exit_status = 128 + number


def listen(numbers: Iterable[signal.Signals], handler: Handler) -> dict[signal.Signals, Any]:
    """Call a handler at signals; what was done before, by signal. What is ignored, as in the background, stays so."""
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


class StopSignal:
    """Remembers the first signal that asks to end, in the process's main thread, from when it is made until `close`.

    A second Ctrl-C interrupts.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._before = listen(ASKED_BY, self._note)

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or signal.Signals(number)

    def close(self) -> None:
        """The signals do what they did before."""
        for number, before in self._before.items():
            signal.signal(number, before)
