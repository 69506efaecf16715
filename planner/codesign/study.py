"""A study of model shapes: every shape of a grid with its best plan on the cluster, at a held budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.runtime import RuntimeSpec, load_runtime
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload
from meshwright.planner.codesign.budget import Budget, Measure, read_measure
from meshwright.planner.codesign.evaluate import Setting, ShapeTask, evaluate, outcome
from meshwright.planner.codesign.grid import DEFAULT_TOLERANCE, Grid, check_size, make_grid, shapes
from meshwright.planner.codesign.outcome import Front, ShapeOutcome, Status
from meshwright.planner.codesign.pareto import default_capacity, with_fronts
from meshwright.planner.fixes import Fixes
from meshwright.planner.search import DEFAULT_GAP, RUNTIME
from meshwright.planner.space import Problem
from meshwright.planner.task_pool import run_tasks

if TYPE_CHECKING:
    from pandas import DataFrame

TRILLION = 1e12
CAPACITY, TOKENS = "--capacity", "--tokens"

Progress = Callable[[int, int], None]


class CodesignStudy(Value, frozen=True, kw_only=True):
    """Shapes with their best plans; the first is the base model. `capacity` and step time are the axes of the front.

    `with_failures`: days count failures and restarts, at the cluster's failure rate.
    `stopped`: why it ended early, empty if it did not; shapes that were not reached have the status NOT_DONE.
    """

    model: str
    cluster: str
    num_gpus: int
    workload: Workload
    runtime: str
    fixes: Fixes
    budget: Budget
    vary: dict[str, tuple[int, ...]]
    adjust: str
    multiple: int
    capacity: Measure
    tokens: float
    with_failures: bool
    stopped: str
    shapes: tuple[ShapeOutcome, ...]

    @property
    def is_partial(self) -> bool:
        """Whether shapes are missing."""
        return bool(self.stopped)

    @property
    def base(self) -> ShapeOutcome:
        """The base model."""
        return self.shapes[0]

    @property
    def front(self) -> tuple[ShapeOutcome, ...]:
        """The Pareto-optimal shapes, fastest first."""
        found = [(shape.plan.step_time_s, shape) for shape in self.shapes if shape.plan and shape.front is Front.ON]
        return tuple(shape for _, shape in sorted(found, key=lambda entry: entry[0]))

    def to_dataframe(self) -> DataFrame:
        """A row a shape, with the columns of the CSV file."""
        from pandas import DataFrame

        from meshwright.planner.codesign.columns import records

        table = records(self)
        return DataFrame(list(table.rows), columns=list(table.columns))


def codesign(
    problem: Problem,
    *,
    hold: Measure | str,
    vary: Mapping[str, Sequence[int]],
    adjust: str = "",
    multiple: int = 0,
    tolerance_fraction: float = DEFAULT_TOLERANCE,
    capacity: Measure | str = "",
    tokens: float = TRILLION,
    runtime: RuntimeSpec | None = None,
    gap: float = DEFAULT_GAP,
    workers: int | None = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> CodesignStudy:
    """Plan every combination of the sizes in `vary` on the cluster of `problem`, whose model is the base.

    Each shape has as much of `hold` as the base model: its size `adjust` (by default the width of its experts, or of
    its FFN) is the multiple of `multiple` that comes nearest; one that misses by more than the tolerance is illegal.
    `capacity` is what the front wants much of; `tokens` what `days` are counted to. `workers` None: a process a
    processor; more than one needs a main module that can be imported, as always with `multiprocessing`.
    `progress` is called with the numbers of shapes done and of all for each that is done. An interrupt
    (Ctrl-C) leaves a partial study.
    Raises `InputError` where the question is wrong. Same figures whatever the number of workers.
    """
    held = read_measure("--hold", hold)
    wanted = read_measure(CAPACITY, capacity) if capacity else default_capacity(held)
    grid = make_grid(
        problem.model,
        problem.workload.seq_len,
        hold=held,
        vary={name: tuple(sizes) for name, sizes in vary.items()},
        adjust=adjust,
        multiple=multiple,
        tolerance_fraction=tolerance_fraction,
    )
    check_size(grid, force=force)
    _check(held, wanted, tokens)
    setting = Setting(
        cluster=problem.cluster,
        workload=problem.workload,
        runtime=runtime or load_runtime(RUNTIME),
        fixes=problem.fixes,
        budget=grid.budget,
        tokens=tokens,
        gap=gap,
    )
    tasks = tuple(ShapeTask(shape=shape, setting=setting) for shape in shapes(grid))
    run = run_tasks(evaluate, tasks, workers=workers, progress=_counting(progress, len(tasks)))
    rows = [run.results.get(index) or outcome(task, Status.NOT_DONE) for index, task in enumerate(tasks)]
    placed = with_fronts(rows, wanted, grid.budget.tolerance_fraction)
    return _study(problem, grid, setting, wanted, placed, run.stopped)


def _check(hold: Measure, capacity: Measure, tokens: float) -> None:
    if capacity is hold:
        raise InputError(CAPACITY, capacity.value, "is what is held, so all shapes have as much of it")
    if not 1.0 <= tokens < float("inf"):
        raise InputError(TOKENS, "", f"{tokens:g} is not a number of tokens, as in 15e12")


def _counting(progress: Progress | None, total: int) -> Callable[[int, ShapeOutcome], None] | None:
    """`progress` as it is called for each task."""
    if progress is None:
        return None
    done = count(1)
    return lambda _, __: progress(next(done), total)


def _study(
    problem: Problem,
    grid: Grid,
    setting: Setting,
    capacity: Measure,
    rows: tuple[ShapeOutcome, ...],
    stopped: str,
) -> CodesignStudy:
    return CodesignStudy(
        model=problem.model.name,
        cluster=problem.cluster.name,
        num_gpus=problem.cluster.num_gpus,
        workload=problem.workload,
        runtime=setting.runtime.name,
        fixes=problem.fixes,
        budget=grid.budget,
        vary=dict(grid.vary),
        adjust=grid.adjust,
        multiple=grid.multiple,
        capacity=capacity,
        tokens=setting.tokens,
        with_failures=setting.cluster.mean_time_between_failures_s is not None,
        stopped=stopped,
        shapes=rows,
    )
