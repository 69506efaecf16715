"""Signals that ask a run to end are noted, and do what they did before in the end."""

from __future__ import annotations

import signal

import pytest

from meshwright.executor.train.stopping import StoppedError, StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopSignal()
    try:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == number
    finally:
        stop.close()
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_interrupts() -> None:
    stop = StopSignal()
    try:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        stop.close()


def test_what_is_ignored_stays_so() -> None:
    """As SIGINT of a process that a script has put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop = StopSignal()
        signal.raise_signal(signal.SIGINT)
        assert not stop.asked
        stop.close()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_status_is_that_of_the_signal() -> None:
    error = StoppedError(signal.SIGINT, "after 3 of 9 steps")
    assert (str(error), error.exit_status) == ("run: stopped by SIGINT after 3 of 9 steps", 130)
    assert str(StoppedError(signal.SIGTERM)) == "run: stopped by SIGTERM"
