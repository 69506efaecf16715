from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.task_pool import INTERRUPTED, WORKER_DIED, available_workers, run_tasks

STORY = """
import signal
import time
from meshwright.planner.task_pool import run_tasks

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    run = run_tasks(time.sleep, [0.0, 0.0, 600.0, 600.0], workers=2, progress=lambda n, _: print("done", n, flush=True))
    print(sorted(run.results), run.stopped)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_results_stand_in_the_order_of_the_tasks(workers: int) -> None:
    run = run_tasks(math.factorial, [5, 3, 0], workers=workers)
    assert list(run.results.items()) == [(0, 120), (1, 6), (2, 1)]
    assert run.stopped == ""


def test_progress_is_told_of_every_task_once() -> None:
    told: list[tuple[int, int]] = []
    run_tasks(math.factorial, [5, 3, 0], progress=lambda index, result: told.append((index, result)))
    assert told == [(0, 120), (1, 6), (2, 1)]


def test_nothing_to_do() -> None:
    assert run_tasks(math.factorial, [], workers=None).results == {}


def test_an_interrupt_keeps_what_is_done() -> None:
    def stop(index: int, _: int) -> None:
        if index == 1:
            raise KeyboardInterrupt

    run = run_tasks(math.factorial, [5, 3, 0], progress=stop)
    assert (run.results, run.stopped) == ({0: 120, 1: 6}, INTERRUPTED)


def test_a_signal_ends_the_workers_and_keeps_what_is_done(tmp_path: Path) -> None:
    script = tmp_path / "story.py"
    script.write_text(STORY)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    lines = sorted(process.stdout.readline() for _ in range(2))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    rest, errors = process.communicate(timeout=30)
    assert (lines, rest, errors) == (["done 0\n", "done 1\n"], "[0, 1] interrupted\n", "")


def test_an_error_of_the_function_is_the_callers() -> None:
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        run_tasks(math.sqrt, [1.0, -1.0, 4.0], workers=2)


def test_a_worker_that_dies_ends_the_run() -> None:
    run = run_tasks(os._exit, [3, 3], workers=2)
    assert (run.results, run.stopped) == ({}, WORKER_DIED)


def test_no_workers() -> None:
    with pytest.raises(InputError, match="--workers: 0 is not a positive whole number"):
        run_tasks(math.factorial, [1], workers=0)


def test_there_is_a_processor() -> None:
    assert 1 <= available_workers() <= (os.cpu_count() or 1)
