"""Finds an order quickly: list scheduling by longest path, with fused pairs switched on and off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.greedy import Filling, Greedy
from meshwright.costmodel.order.grouping import Grouping, are_compatible, grouping_of, switched, tails_s, unit_times_s
from meshwright.costmodel.order.pass_problem import NO_LINK, PassProblem
from meshwright.costmodel.order.run_order import Run, replay

CLOSE = 5e-3
"""Relative distance to the bound at which list scheduling looks no further."""


class _Trial(NamedTuple):
    total_s: float
    sequence: tuple[int, ...]
    fused: tuple[FusedPair, ...]
    filling: Filling


Fits = Callable[[Sequence[int]], bool]
"""Whether memory suffices if operators are launched in this order (indices)."""


def fits_always(_: Sequence[int]) -> bool:
    """Memory is no concern."""
    return True


def list_schedule(problem: PassProblem, fits: Fits = fits_always) -> Run:
    """The best order that list scheduling finds: all or nothing fused, each pair switched, then other fillings.

    Never worse than the operators in program order, which is what is left where no other order fits.
    """
    if all(link == NO_LINK for link in problem.link):
        return in_program_order(problem)
    for trial in _best_trials(problem):
        grouping = grouping_of(problem, trial.fused)
        if fits(operators_of(grouping, trial.sequence)):
            return min(_replayed(problem, trial), in_program_order(problem), key=lambda run: run.total_s)
    return in_program_order(problem)


@lru_cache(maxsize=16384)
def _best_trials(problem: PassProblem) -> tuple[_Trial, ...]:
    """The fastest first; a pass is the same whatever it recomputes later, so they are found once."""
    trials: list[_Trial] = []
    for trial in _trials(problem):
        trials.append(trial)
        if trial.total_s <= _enough_s(problem):
            break
    return tuple(sorted(trials, key=lambda trial: trial.total_s))


@lru_cache(maxsize=16384)
def _replayed(problem: PassProblem, trial: _Trial) -> Run:
    return replay(problem, grouping_of(problem, trial.fused), trial.sequence)


def _enough_s(problem: PassProblem) -> float:
    return pass_bound_s(problem) * (1.0 + CLOSE)


def launched(run: Run) -> list[int]:
    """Operators in the order of their launch."""
    return operators_of(run.grouping, run.sequence)


def operators_of(grouping: Grouping, sequence: tuple[int, ...]) -> list[int]:
    """The operators of launches, in the same order."""
    return [index for number in sequence for index in grouping.groups[number]]


@lru_cache(maxsize=16384)
def in_program_order(problem: PassProblem) -> Run:
    """Operators launched as the program lists them, none fused."""
    grouping = grouping_of(problem)
    return replay(problem, grouping, tuple(range(len(grouping.groups))))


def _trials(problem: PassProblem) -> Iterator[_Trial]:
    best: _Trial | None = None
    for fused in _starts(problem):
        trial = _try(problem, fused, Filling.FITTING)
        if best is None or trial.total_s < best.total_s:
            best = trial
        yield trial
    assert best is not None  # nothing fused is always tried
    chosen = best.fused
    for pair in problem.pairs:
        trial = _try(problem, switched(chosen, pair), Filling.FITTING)
        if trial.total_s < best.total_s:
            best = trial
        yield trial
    for filling in (Filling.LONGEST, Filling.SHORTEST):
        yield _try(problem, best.fused, filling)


def _try(problem: PassProblem, fused: tuple[FusedPair, ...], filling: Filling) -> _Trial:
    grouping = grouping_of(problem, fused)
    times_s = unit_times_s(problem, grouping)
    total_s, sequence = Greedy(problem, grouping, times_s, tails_s(grouping, times_s), filling).run()
    return _Trial(total_s, sequence, fused, filling)


def _starts(problem: PassProblem) -> Iterator[tuple[FusedPair, ...]]:
    """As much fused as can be, the longest communication first; nothing fused."""
    chosen: tuple[FusedPair, ...] = ()
    for pair in sorted(problem.pairs, key=lambda pair: -problem.time_s[pair.communication]):
        if are_compatible((*chosen, pair)):
            chosen = (*chosen, pair)
    if chosen:
        yield chosen
    yield ()
