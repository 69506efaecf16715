"""Runs independent tasks on several processes: the same results whatever their number, on an interrupt what is done.

Workers are started afresh (spawn), so they hold nothing of the caller's threads. A script that calls this with more
than one worker needs `if __name__ == "__main__":` around its work, as always with `multiprocessing`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from meshwright.costmodel.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

OPTION = "--workers"
INTERRUPTED, WORKER_DIED = "interrupted", "a worker process died, perhaps for want of memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun(Generic[Result]):
    """Results by the number of their task, in that order. `stopped`: why some are missing, empty if none are."""

    results: dict[int, Result]
    stopped: str


def available_workers() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int | None = 1,
    progress: Callable[[int, Result], None] | None = None,
) -> TaskRun[Result]:
    """Call a function of a module for each task; `workers` None: one process a processor, 1: no other process.

    `progress` is called here for each task that is done, with its number. An interrupt (Ctrl-C) and the death of a
    worker end the run, not the caller. Raises `InputError` for no workers, and what the function raises.
    """
    if workers is not None and workers < 1:
        raise InputError(OPTION, "", f"{workers} is not a positive whole number")
    count = min(workers or available_workers(), len(tasks))
    running = _in_processes(function, tasks, count) if count > 1 else _here(function, tasks)
    done: dict[int, Result] = {}
    stopped = ""
    try:
        for index, result in running:
            done[index] = result
            if progress is not None:
                progress(index, result)
    except KeyboardInterrupt:
        stopped = INTERRUPTED
    except BrokenProcessPool:
        stopped = WORKER_DIED
    finally:
        running.close()
    return TaskRun(results=dict(sorted(done.items())), stopped=stopped)


def _here(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Generator[tuple[int, Result], None, None]:
    for index, task in enumerate(tasks):
        yield index, function(task)


def _in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Generator[tuple[int, Result], None, None]:
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        with _interrupts_ignored():  # which the workers inherit: a Ctrl-C is this process's to handle
            futures: dict[Future[Result], int] = {
                executor.submit(function, task): index for index, task in enumerate(tasks)
            }
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
            worker.join()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that start in here never see SIGINT."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
