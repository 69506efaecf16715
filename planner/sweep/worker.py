"""What a worker process of a sweep does: one evaluator, asked for chunks of rows."""

from __future__ import annotations

import gc
import signal
from functools import _lru_cache_wrapper

from meshwright.planner.sweep.evaluate import Evaluator, Job
from meshwright.planner.sweep.row import SweepRow

FORGET_AFTER = 1_000
"""Points after which what was remembered of them is forgotten: memory does not grow with the sweep."""

_evaluators: list[Evaluator] = []
"""The evaluator of this process."""


def start(job: Job) -> None:
    """Make the process ready. Ctrl-C is for the parent, which ends its workers.

    Garbage collection would walk over all that is remembered, again and again, and find next to nothing; `forget`
    collects.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    _evaluators[:] = [Evaluator(job)]


def rows(first: int, last: int) -> list[SweepRow]:
    """The rows from `first` up to but not `last`."""
    found = _evaluators[0].rows(first, last)
    if first // FORGET_AFTER != last // FORGET_AFTER:
        forget()
    return found


def forget() -> None:
    """Clear all caches of this package; what they held can be computed again.

    By `type`: `isinstance` would ask objects of other packages for their class, which may warn (`torch` does) or raise.
    """
    for value in gc.get_objects():
        if type(value) is _lru_cache_wrapper and value.__module__.startswith("meshwright."):
            value.cache_clear()
    gc.collect()
