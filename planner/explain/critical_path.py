"""The path through the step that decides its length: which stages' forwards, backwards and hops it pays how often."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import Durations, Schedule, Term, critical_path
from meshwright.costmodel.step import schedule_of, step_inputs, step_overlap
from meshwright.costmodel.value import Value


class PathPart(StrEnum):
    """What a second of the path counts as."""

    PIPELINE = "pipeline"
    DATA_PARALLEL = "data parallel"
    OPTIMIZER = "optimizer"
    BARRIER = "barrier"


_PART_OF = {
    Term.PARAM_GATHER: PathPart.DATA_PARALLEL,
    Term.PARAM_GATHER_FIRST_LAYER: PathPart.DATA_PARALLEL,
    Term.GRAD_REDUCE: PathPart.DATA_PARALLEL,
    Term.GRAD_REDUCE_FIRST_LAYER: PathPart.DATA_PARALLEL,
    Term.STATE_SLOWDOWN: PathPart.DATA_PARALLEL,
    Term.OPTIMIZER: PathPart.OPTIMIZER,
    Term.BARRIER: PathPart.BARRIER,
}
_HOPS = (Term.FORWARD_HOP, Term.BACKWARD_HOP)


class PathTerm(Value, frozen=True, kw_only=True):
    """A duration that the path pays `count` times (a saving, or what overlaps, a negative number of times).

    `stage` is the virtual stage, for a hop the one it starts from on its way up, for slowdown and optimizer the
    device, and -1 for the barrier, which is everywhere.
    """

    part: PathPart
    term: Term
    stage: int
    count: int
    each_s: float

    @property
    def total_s(self) -> float:
        """What the path pays for it."""
        return self.count * self.each_s


class StepPath(Value, frozen=True, kw_only=True):
    """The longest path. `seconds` are its parts, which add up to `step_time_s`."""

    step_time_s: float
    seconds: dict[str, float]
    terms: tuple[PathTerm, ...]


def step_path(configuration: TrainingConfiguration) -> StepPath:
    """The critical path of a configuration's step.

    Source of the durations: `costmodel.step.step_inputs`; of the counts: `costmodel.simulate.critical_path`.
    """
    schedule = schedule_of(configuration)
    _, durations = step_inputs(configuration, schedule)
    path = critical_path(schedule, durations, step_overlap(configuration))
    terms = tuple(term for kind in Term for term in _terms(kind, schedule, durations, path.of(kind)))
    seconds = {part.value: sum(term.total_s for term in terms if term.part is part) for part in PathPart}
    return StepPath(step_time_s=path.length_s(durations), seconds=seconds, terms=terms)


def _terms(kind: Term, schedule: Schedule, durations: Durations, counts: np.ndarray) -> Iterator[PathTerm]:
    """Every place at which the path pays a term, in the order of the stages."""
    seconds = durations.of(kind)
    paid = {_place(kind, schedule, tuple(index)): tuple(index) for index in np.argwhere(counts)}
    for stage, index in sorted(paid.items()):
        yield PathTerm(
            part=_PART_OF.get(kind, PathPart.PIPELINE),
            term=kind,
            stage=stage,
            count=round(float(counts[index])),
            each_s=float(seconds[index]),
        )


def _place(kind: Term, schedule: Schedule, index: tuple[int, ...]) -> int:
    if kind is Term.BARRIER:
        return -1
    if kind in (Term.STATE_SLOWDOWN, Term.OPTIMIZER, *_HOPS):
        return int(index[0])
    device, chunk = index
    return schedule.placement[device][chunk]
