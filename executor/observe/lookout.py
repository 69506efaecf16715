"""A thread that looks whether its rank still gets on, and whether somebody still waits for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from meshwright.executor.observe.whereabouts import Outcome, Whereabouts

POLL_S = 0.25
DEVICE_BEHIND_S = 1.0
"""A host that stands still for so long is asked what its device is in."""


class Lookout(threading.Thread):
    """Ends the process where nothing has moved for `timeout_s` while it waits for other ranks, or its parent is gone.

    `device_at`: what the device is in, in words, nothing if it is idle. `parent`: the process that must live, 0 for
    none. `hung` is called before the end.
    """

    def __init__(
        self,
        whereabouts: Whereabouts,
        device_at: Callable[[], str],
        *,
        timeout_s: float,
        parent: int = 0,
        hung: Callable[[], None],
    ) -> None:
        super().__init__(name="lookout", daemon=True)
        self._whereabouts = whereabouts
        self._device_at = device_at
        self._timeout_s = timeout_s
        self._parent = parent
        self._hung = hung
        self._ended = threading.Event()

    def close(self) -> None:
        """Look no longer."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look until closed."""
        moves, device, since_s = -1, "", time.monotonic()
        while not self._ended.wait(POLL_S):
            if self._parent and os.getppid() != self._parent:
                os._exit(1)
            now_s, at, behind = time.monotonic(), self._whereabouts.moves, ""
            if at == moves and (device or now_s - since_s >= DEVICE_BEHIND_S):
                behind = self._device_at()
            if at != moves or behind != device:
                self._whereabouts.set_device(behind)
                moves, device, since_s = at, behind, now_s
            elif (self._whereabouts.waits or device) and now_s - since_s >= self._timeout_s:
                self._whereabouts.end(Outcome.HUNG)
                self._hung()
                os._exit(1)
