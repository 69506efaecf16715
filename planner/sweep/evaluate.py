"""Evaluates the points of a sweep one by one: the same rows whoever asks, in whatever order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InfeasibleError, InputError
from meshwright.costmodel.step import StepPrediction
from meshwright.costmodel.units import format_bytes
from meshwright.costmodel.value import Value
from meshwright.planner.changes import CHANGES
from meshwright.planner.goodput import training_outlook
from meshwright.planner.plan import Plan
from meshwright.planner.sweep.axes import Grid
from meshwright.planner.sweep.row import Outcome, SweepRow, outcome_of
from meshwright.planner.what_if import Baseline, baseline_of, changed, predict_changed

if TYPE_CHECKING:
    from meshwright.planner.sweep.replan import Found

OUTLOOK_KEYS = frozenset(
    {"cluster.jitter", "cluster.mean_time_between_failures_s", *(key for key in CHANGES if key.startswith("run."))}
)
"""Keys that change a whole training run, not the step: with one of them, rows tell of the run."""


GOAL_KEYS = frozenset({"run.tokens", "cluster.price_per_gpu_hour"})
"""What a whole run is for, and in which price it is counted: no change of the step."""


class Job(Value, frozen=True, kw_only=True):
    """A sweep to do: the plan, what is set at all points, what is swept; `fixes` pin choices of searches."""

    plan: Plan
    grid: Grid
    fixed: tuple[tuple[str, str], ...] = ()
    replan: bool = False
    fixes: tuple[str, ...] = ()

    @property
    def has_outlook(self) -> bool:
        """Whether rows tell of a whole training run."""
        return not OUTLOOK_KEYS.isdisjoint((*self.grid.keys, *(key for key, _ in self.fixed)))


class Evaluator:
    """A plan made ready for the points of a sweep."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.baseline: Baseline = baseline_of(job.plan)

    def rows(self, start: int, stop: int) -> list[SweepRow]:
        """The rows of some consecutive points."""
        return [self.row(index) for index in range(start, stop)]

    def row(self, index: int) -> SweepRow:
        """The row of a point; a point that contradicts itself has a reason and no figures."""
        point = self.job.grid.point(index)
        values = {**dict(self.job.fixed), **point}
        row = SweepRow(index=index, values=tuple(self._values(point, values)), replanned=self.job.replan)
        held, reason = self._held(values)
        if not self.job.replan:
            return _with(row, held=held, reason=reason or _over_limit(held))
        return self._replanned(row, values, held)

    def plan_outcome(self) -> Outcome:
        """The plan itself, what rows are compared with; as a whole run with the goal that is set at every point."""
        goal = {key: text for key, text in self.job.fixed if key in GOAL_KEYS}
        configuration = changed(self.baseline, goal).configuration
        return self._outcome(configuration, predict_changed(configuration))

    def plan_values(self) -> tuple[int | float | str | bool, ...]:
        """What the plan has for the swept keys."""
        return tuple(_plain(CHANGES[key].get(self.baseline.draft)) for key in self.job.grid.keys)

    def _held(self, values: Mapping[str, str]) -> tuple[Outcome | None, str]:
        try:
            configuration = changed(self.baseline, values).configuration
            return self._outcome(configuration, predict_changed(configuration)), ""
        except InputError as error:
            return None, error.problem

    def _replanned(self, row: SweepRow, values: Mapping[str, str], held: Outcome | None) -> SweepRow:
        """The search's plan, or the held one where that fits and is faster: searches end within a gap."""
        from meshwright.planner.sweep.replan import best_plan  # solvers are loaded only where something is solved

        try:
            found = best_plan(self.baseline, values, self.job.fixes)
        except (InputError, InfeasibleError) as error:
            if held is not None and held.fits and not self.job.fixes:
                return _with(row, held=held, best=held, is_held=True, reason=f"held; the search: {_line(error)}")
            return _with(row, held=held, reason=_line(error))
        best = held if self._is_better(held, found.outcome) else self._with_run(found)
        return _with(row, held=held, best=best, gap=found.gap, is_held=best is held, reason=_over_limit(best))

    def _is_better(self, held: Outcome | None, found: Outcome) -> bool:
        """Whether the held plan, which has no pins of its own, is the better answer."""
        if held is None or not held.fits or self.job.fixes:
            return False
        return held.step_time_s <= found.step_time_s or not found.fits

    def _outcome(self, configuration: TrainingConfiguration, prediction: StepPrediction) -> Outcome:
        outlook = training_outlook(configuration, prediction) if self.job.has_outlook else None
        return outcome_of(configuration, prediction, outlook)

    def _with_run(self, found: Found) -> Outcome:
        if not self.job.has_outlook:
            return found.outcome
        return self._outcome(found.configuration, predict_changed(found.configuration))

    def _values(self, point: Mapping[str, str], values: Mapping[str, str]) -> Iterator[int | float | str | bool]:
        """The values of the swept keys, also where they contradict each other: after the changes made before them."""
        draft, read = self.baseline.draft, dict[str, Any]()
        for key in (key for key in CHANGES if key in values):
            change = CHANGES[key]
            read[key] = change.read(key, values[key], change.get(draft))
            with suppress(InputError):
                draft = change.put(draft, read[key])
                read[key] = change.get(draft)
        return (_plain(read[key]) for key in point)


def _with(row: SweepRow, **fields: Any) -> SweepRow:  # noqa: ANN401  fields of a row
    return SweepRow(index=row.index, values=row.values, replanned=row.replanned, **fields)


def _plain(value: object) -> int | float | str | bool:
    """A value that files can hold."""
    plain = getattr(value, "value", value)
    return plain if isinstance(plain, int | float | str | bool) else str(plain)


def _over_limit(outcome: Outcome | None) -> str:
    if outcome is None or outcome.fits:
        return ""
    over_bytes = outcome.peak_memory_bytes - outcome.memory_limit_bytes
    return f"stage {outcome.fullest_stage} is {format_bytes(over_bytes)} over the memory limit"


def _line(error: InputError | InfeasibleError) -> str:
    text = error.problem if isinstance(error, InputError) else str(error)
    return " ".join(text.split())
