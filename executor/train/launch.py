"""Starts the ranks of one host, and watches over them.

What torchrun does on one host, without its agent: that ends the other ranks as soon as one has failed, when nobody can
say any more where they were. Ranks meet at a store that lives here, on a port that the system chooses.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType

from torch._C._distributed_c10d import TCPStore

from meshwright.costmodel.errors import InputError
from meshwright.executor.train.failure import RankEnd, described_failure, write_failure
from meshwright.executor.train.stopping import ASKED_BY, STOPPED_STATUSES, StoppedError, listen
from meshwright.executor.train.supervision import WHEREABOUTS, read_reason

HOST = "127.0.0.1"
SHUTDOWN_S = 600.0
"""How long ranks may save after SIGTERM before they are killed."""

POLL_S, GRACE_S, KILL_S = 0.05, 3.0, 3.0
"""How often ranks are looked at; how long others may end by themselves when one has failed, and after SIGTERM."""


def launch_ranks(num_ranks: int, arguments: Sequence[str], folder: Path, *, on_cpu: bool, saves: bool) -> None:
    """Run `python -m meshwright ARGUMENTS` in so many processes until all have ended.

    Raises `RankError` if one has failed, and writes it to the run's `folder`; `StoppedError` after SIGTERM, and after
    SIGINT where ranks save (`saves`): without, Ctrl-C interrupts, as a second one always does.
    """
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    forwarded = ASKED_BY if saves else (signal.SIGTERM,)
    with tempfile.TemporaryDirectory(prefix="meshwright-") as whereabouts, _noted(forwarded) as stop:
        ranks = _Ranks(num_ranks, arguments, _environment(num_ranks, store.port, whereabouts, on_cpu=on_cpu))
        try:
            ends = ranks.wait(stop)
            if stop and (len(ends) < num_ranks or any(end.status for end in ends)):
                raise StoppedError(stop[0], read_reason(Path(whereabouts), 0))
            if any(end.status for end in ends):
                ranks.settle()
                error = described_failure(ranks.ends(), Path(whereabouts), num_ranks)
                if error.exit_status in STOPPED_STATUSES:
                    asked_by = signal.Signals(error.exit_status - 128)
                    raise StoppedError(asked_by, read_reason(Path(whereabouts), error.record.rank))
                with suppress(InputError):  # why the run has failed matters more
                    write_failure(error.record, folder)
                raise error
        finally:
            ranks.end()


def _environment(num_ranks: int, port: int, whereabouts: str, *, on_cpu: bool) -> dict[str, str]:
    environment = {"OMP_NUM_THREADS": "1", **({"GLOO_SOCKET_IFNAME": "lo"} if on_cpu else {}), **os.environ}
    return environment | {
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there: rank 0 opens none
        "TORCHELASTIC_RESTART_COUNT": "0",
        WHEREABOUTS: whereabouts,
    }


@contextmanager
def _noted(numbers: Sequence[signal.Signals]) -> Iterator[list[signal.Signals]]:
    """A list in which signals leave their numbers; a second Ctrl-C interrupts."""
    asked: list[signal.Signals] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number))

    before = listen(numbers, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Ranks:
    """The processes of the ranks; each a session of its own, so that Ctrl-C reaches them through this process alone."""

    def __init__(self, num_ranks: int, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self._ends: list[RankEnd] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for rank in range(num_ranks):
            self._processes[rank] = subprocess.Popen(
                [sys.executable, "-m", "meshwright", *arguments],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                start_new_session=True,
            )

    def ends(self) -> list[RankEnd]:
        """Those that have ended so far, the first one first."""
        known = {end.rank for end in self._ends}
        for rank, process in self._processes.items():
            if rank not in known and process.poll() is not None:
                self._ends.append(RankEnd(rank=rank, status=process.returncode))
        return self._ends

    def wait(self, stop: list[signal.Signals]) -> list[RankEnd]:
        """Until all have ended or one has failed; asked to stop, until all have ended or for so long as they may."""
        deadline_s: float | None = None
        while len(self.ends()) < len(self._processes):
            if stop and deadline_s is None:
                deadline_s = time.monotonic() + SHUTDOWN_S
                self._signal(signal.SIGTERM)
            if deadline_s is None and any(end.status for end in self._ends):
                break
            if deadline_s is not None and time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)
        return self._ends

    def settle(self) -> None:
        """Let others end by themselves, and say where they are, for a moment."""
        self._wait_all(GRACE_S)

    def end(self) -> None:
        """None lives on."""
        if len(self.ends()) == len(self._processes):
            return
        self._signal(signal.SIGTERM)
        self._wait_all(KILL_S)
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def _wait_all(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while len(self.ends()) < len(self._processes) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)
