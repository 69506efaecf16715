"""A lower bound by simulation: the step with every layer at the least of each of its times, whatever its memory.

Sharper than `bounds` where a pipeline mostly waits (few micro-batches, long warm-up), and dearer: an event for every
slot of the schedule. It needs a known split of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from meshwright.planner.choice import COST_FIELDS, Choice
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import step_time_s


def least_step_s(problem: PointProblem, boundaries: Sequence[int]) -> float:
    """No assignment of the layers between these boundaries is faster.

    The step is the longest path of a fixed graph, and no path gets shorter where a pass gets longer: a pass that is
    taken off (where a reduction begins within the last backward) is one that the path has paid before. A forward beside
    a backward counts with what it takes beyond that, again the least of all choices.

    Source: derived; `tests/unit/planner/test_least_step.py` compares with every assignment.
    """
    fastest = msgspec.structs.replace(problem, choices=tuple(((_least(choices),)) for choices in problem.choices))
    kinds = sorted(set(problem.layer_types))
    counts = np.array(
        [[problem.layer_types[start:end].count(kind) for kind in kinds] for start, end in pairwise(boundaries)],
        dtype=np.int64,
    )
    return step_time_s(fastest, counts)


def _least(choices: Sequence[Choice]) -> Choice:
    """Each number at the least of all choices, and the saving such that a forward beside a backward is, too."""
    least = {name: min(getattr(choice, name) for choice in choices) for name in COST_FIELDS}
    beside_s = min(choice.forward_s - choice.overlap_saving_s for choice in choices)
    return Choice(key=None, **{**least, "overlap_saving_s": least["forward_s"] - beside_s})
