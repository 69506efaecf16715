"""Local search: launches moved to other places in the order, as long as that makes the pass shorter."""

from __future__ import annotations

from meshwright.costmodel.order.grouping import Grouping
from meshwright.costmodel.order.list_schedule import Fits, launched
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.order.run_order import Run, replay

LEAST_GAIN = 1e-9
"""Relative gain under which a move counts as none."""


def improve(problem: PassProblem, run: Run, fits: Fits, *, bound_s: float, num_replays: int) -> Run:
    """The best order that fits reached by moving one launch at a time; at most so many orders are tried."""
    best, left = run, num_replays
    improved = True
    while improved and left > 0 and best.total_s > bound_s * (1.0 + LEAST_GAIN):
        improved = False
        for number in best.sequence:
            for place in _places(best.grouping, best.sequence, number):
                if left == 0:
                    return best
                left -= 1
                trial = replay(problem, best.grouping, _moved(best.sequence, number, place))
                if trial.total_s < best.total_s * (1.0 - LEAST_GAIN) and fits(launched(trial)):
                    best, improved = trial, True
                    break
    return best


def _places(grouping: Grouping, sequence: tuple[int, ...], number: int) -> range:
    """Where a launch may stand: behind all it waits for, before all that wait for it (places without itself)."""
    others = [other for other in sequence if other != number]
    place_of = {other: place for place, other in enumerate(others)}
    first = max((place_of[source] + 1 for source in grouping.before[number]), default=0)
    last = min((place_of[target] for target in grouping.after[number]), default=len(others))
    return range(first, last + 1)


def _moved(sequence: tuple[int, ...], number: int, place: int) -> tuple[int, ...]:
    others = [other for other in sequence if other != number]
    return (*others[:place], number, *others[place:])
