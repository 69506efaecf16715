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


def run_in_processes(task: LinkTask, num_ranks: int, *, on_gpus: bool, record: Record) -> str:
    """Run the task on ranks of this machine; returns why it ended early, or nothing.

    The environment is passed on as it is.
    """
    context = multiprocessing.get_context("spawn")
    lines: Queue[bytes | None] = context.Queue()
    with tempfile.TemporaryDirectory(prefix="meshwright-profile-") as folder:
        meeting = (Path(folder) / "ranks").as_uri()
        processes: list[BaseProcess] = [
            context.Process(target=_work, args=(rank, num_ranks, on_gpus, meeting, task, lines), daemon=True)
            for rank in range(num_ranks)
        ]
        for process in processes:
            process.start()
        try:
            return _pass_on(lines, processes, record)
        finally:
            for process in processes:
                process.join(0.0 if process.is_alive() and process.exitcode is None else STOP_S)
                if process.is_alive():
                    process.kill()
                    process.join()


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


def _work(rank: int, num_ranks: int, on_gpus: bool, meeting: str, task: LinkTask, lines: Queue[bytes | None]) -> None:
    """One process. An interrupt is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    place = Place(rank=rank, size=num_ranks, local_rank=rank, local_size=num_ranks)
    ranks = Ranks(place, on_gpus=on_gpus, init_method=meeting)

    def record(key: str, outcome: Outcome) -> None:
        lines.put(msgspec.json.encode(Line(key=key, outcome=outcome)))

    LinkWorker(ranks, open_device(place.local_rank, on_gpus=on_gpus), record).run(task)
    if place.is_first:
        lines.put(None)
    ranks.close()
