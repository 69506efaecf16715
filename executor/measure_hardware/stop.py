"""A run that is told to end, by `timeout` say, ends as one that is interrupted: processes stopped, results kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ends_as_interrupted() -> Iterator[None]:
    """SIGTERM raises `KeyboardInterrupt` inside; Python lets the main thread alone see to signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
