"""Runs a sweep on one core or many: the same rows in the same order, and on Ctrl-C those that are finished."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import active_children, get_context
from pathlib import Path

from meshwright.costmodel.errors import InputError
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import read_plan
from meshwright.planner.sweep import worker
from meshwright.planner.sweep.axes import OPTION, Grid, check_readable, check_size, grid_of
from meshwright.planner.sweep.evaluate import Evaluator, Job
from meshwright.planner.sweep.result import SweepResult
from meshwright.planner.sweep.row import SweepRow
from meshwright.planner.task_pool import available_workers
from meshwright.planner.what_if import Baseline

INTERRUPTED, WORKER_DIED = "interrupted", "a worker process died"
HELD_CHUNK = 20
"""Points that a worker takes at a time, the plan held: a fifth of a second. Searches go one by one."""

FEW_POINTS = 100
"""Held points that are done before a second process would have started."""

QUEUED_CHUNKS = 4
"""Chunks given out for each worker, so that none waits and a large grid is never listed."""

Progress = Callable[[int, int], None]
"""Called with the number of points done and of all points."""

Rows = Generator[list[SweepRow], None, None]


def sweep(
    plan: Plan | Path | str,
    values: Mapping[str, object],
    *,
    set: Mapping[str, object] | None = None,
    replan: bool = False,
    fix: tuple[str, ...] = (),
    workers: int | None = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> SweepResult:
    """Evaluate a plan at every combination of some values.

    Args:
        plan: A plan, or the path of a plan.json.
        values: Lists of values by key, as in {"cluster.network_bytes_per_s": [50e9, "800 Gbit/s", "4x"], "ep": [8,
            16]}; plain numbers are SI units.
        set: Changes made at every point, beside those that are swept.
        replan: Find the best plan at every point, instead of holding the plan's choices.
        fix: Choices that these searches are bound to, as in ("tp=8",).
        workers: Processes; None: one for each core. The rows do not depend on it. More than one needs a main module
            that can be imported, as always with `multiprocessing`.
        force: Evaluate more than `MAX_POINTS` points.
        progress: Called after every few points.

    Raises `InputError` for what cannot be read. A point that contradicts itself is a row with its reason.
    """
    read = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    changes = grid_of({key: [value] for key, value in set.items()}).point(0) if set else {}
    grid = grid_of(values)
    return sweep_grid(read, grid, changes, replan=replan, fixes=fix, workers=workers, force=force, progress=progress)


def sweep_grid(
    plan: Plan,
    grid: Grid,
    changes: Mapping[str, str],
    *,
    replan: bool = False,
    fixes: tuple[str, ...] = (),
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> SweepResult:
    """Evaluate every point of a grid, with `changes` (full keys to text) made at all of them."""
    check_size(grid, force=force)
    if both := next((key for key in grid.keys if key in changes), None):
        raise InputError(OPTION, both, "is set as well; a key is either set or swept")
    if fixes and not replan:
        raise InputError("--fix", "", "pins choices of a search; it needs --replan")
    parse_fixes(fixes)
    job = Job(plan=plan, grid=grid, fixed=tuple(changes.items()), replan=replan, fixes=fixes)
    evaluator = Evaluator(job)
    check_readable(grid, evaluator.baseline.draft)
    if replan:
        from meshwright.planner.sweep.replan import check_replannable

        check_replannable((*grid.keys, *changes))
    rows, stopped = _collect(job, evaluator, _num_workers(job, workers), progress)
    return _result(job, evaluator, rows, stopped)


def _result(job: Job, evaluator: Evaluator, rows: list[SweepRow], stopped: str) -> SweepResult:
    baseline: Baseline = evaluator.baseline
    return SweepResult(
        model=job.plan.model.name,
        keys=job.grid.keys,
        changes=job.fixed,
        planned=evaluator.plan_outcome(),
        plan_values=evaluator.plan_values(),
        num_points=len(job.grid),
        replanned=job.replan,
        rows=tuple(sorted(rows, key=lambda row: row.index)),
        stopped=stopped,
        warnings=baseline.warnings,
    )


def _num_workers(job: Job, workers: int | None) -> int:
    if workers is not None and workers < 1:
        raise InputError("--workers", "", f"{workers} is not a positive whole number")
    if workers is not None:
        return min(workers, len(job.grid))
    if not job.replan and len(job.grid) <= FEW_POINTS:
        return 1
    return min(available_workers(), len(job.grid))


def _collect(job: Job, evaluator: Evaluator, workers: int, progress: Progress | None) -> tuple[list[SweepRow], str]:
    """The rows that were finished, and why there are no more."""
    rows: list[SweepRow] = []
    done = _here(evaluator, job) if workers == 1 else _in_processes(job, workers)
    try:
        for chunk in done:
            rows += chunk
            if progress is not None:
                progress(len(rows), len(job.grid))
    except KeyboardInterrupt:
        return rows, INTERRUPTED
    except BrokenProcessPool:
        return rows, WORKER_DIED
    finally:
        done.close()
    return rows, ""


def _here(evaluator: Evaluator, job: Job) -> Rows:
    for index in range(len(job.grid)):
        yield [evaluator.row(index)]
        if index % worker.FORGET_AFTER == worker.FORGET_AFTER - 1:
            worker.forget()


def _chunks(job: Job) -> Iterator[tuple[int, int]]:
    size, total = 1 if job.replan else HELD_CHUNK, len(job.grid)
    return ((first, min(first + size, total)) for first in range(0, total, size))


def _in_processes(job: Job, workers: int) -> Rows:
    """Chunks of rows as they are finished. Processes are spawned, so that they inherit nothing but the job."""
    others = active_children()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=worker.start, initargs=(job,))
    finished = False
    try:
        chunks = _chunks(job)
        running: set[Future[list[SweepRow]]] = set()
        while True:
            room = QUEUED_CHUNKS * workers - len(running)
            running |= {pool.submit(worker.rows, first, last) for first, last in islice(chunks, room)}
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
        finished = True
    finally:
        if not finished:
            for process in active_children():
                if process not in others:
                    process.terminate()
        pool.shutdown(wait=finished, cancel_futures=True)
