from __future__ import annotations

import os
import signal

import pytest

from meshwright.executor.measure_hardware.stop import ends_as_interrupted


def test_a_run_that_is_told_to_end_ends_as_interrupted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ends_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
