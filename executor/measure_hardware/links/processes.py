"""Starts one process a GPU of this machine, hands them what is to be measured, and passes on what they find."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

import msgspec

from meshwright.executor.measure_hardware.devices import open_device
from meshwright.executor.measure_hardware.journal import Line, Outcome
from meshwright.executor.measure_hardware.links.ranks import Place, Ranks
from meshwright.executor.measure_hardware.links.worker import LinkTask, LinkWorker, Record

SILENCE_S = 90.0
"""No sample takes nearly so long: processes that say nothing for this time wait for each other in vain."""

POLL_S = 1.0
STOP_S = 20.0


class LinkProcesses:
    """One process a GPU of this machine. They load their libraries at once and touch no GPU before the task comes.

    The environment is passed on as it is.
    """

    def __init__(self, num_ranks: int, *, on_gpus: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._lines: Queue[bytes | None] = context.Queue()
        self._tasks: Queue[LinkTask] = context.Queue()
        self._folder = tempfile.TemporaryDirectory(prefix="meshwright-profile-")
        meeting = (Path(self._folder.name) / "ranks").as_uri()
        self._processes: list[BaseProcess] = [
            context.Process(
                target=_work, args=(rank, num_ranks, on_gpus, meeting, self._tasks, self._lines), daemon=True
            )
            for rank in range(num_ranks)
        ]
        for process in self._processes:
            process.start()

    def run(self, task: LinkTask, record: Record) -> str:
        """Run the task on all of them, once; returns why it ended early, or nothing."""
        for _ in self._processes:
            self._tasks.put(task)
        try:
            return _pass_on(self._lines, self._processes, record)
        finally:
            self.stop()

    def stop(self) -> None:
        """End those that still run."""
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join()
        for queue in (self._tasks, self._lines):
            queue.cancel_join_thread()
            queue.close()
        self._folder.cleanup()


def _pass_on(lines: Queue[bytes | None], processes: list[BaseProcess], record: Record) -> str:
    silent_s = 0.0
    while True:
        try:
            text = lines.get(timeout=POLL_S)
        except Empty:
            failed = [rank for rank, process in enumerate(processes) if process.exitcode not in (None, 0)]
            if failed:
                return f"the process of GPU {failed[0]} ended with status {processes[failed[0]].exitcode}"
            silent_s += POLL_S
            if silent_s >= SILENCE_S:
                return f"the processes of the GPUs said nothing for {SILENCE_S:.0f} s"
            continue
        if text is None:
            for process in processes:
                process.join(STOP_S)
            return ""
        silent_s = 0.0
        line = msgspec.json.decode(text, type=Line)
        record(line.key, line.outcome)


def _work(
    rank: int, num_ranks: int, on_gpus: bool, meeting: str, tasks: Queue[LinkTask], lines: Queue[bytes | None]
) -> None:
    """One process. An interrupt is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task = _received(tasks)
    place = Place(rank=rank, size=num_ranks, local_rank=rank, local_size=num_ranks)
    ranks = Ranks(place, on_gpus=on_gpus, init_method=meeting)

    def record(key: str, outcome: Outcome) -> None:
        lines.put(msgspec.json.encode(Line(key=key, outcome=outcome)))

    LinkWorker(ranks, open_device(place.local_rank, on_gpus=on_gpus), record).run(task)
    if place.is_first:
        lines.put(None)
    ranks.close()


def _received(tasks: Queue[LinkTask]) -> LinkTask:
    """The task; ends the process where its parent is gone."""
    parent = multiprocessing.parent_process()
    while True:
        try:
            return tasks.get(timeout=POLL_S)
        except Empty:
            if parent is None or not parent.is_alive():
                raise SystemExit from None
