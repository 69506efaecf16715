"""How much memory is missing at least: the same program, minimising the bytes beyond the limit."""

from __future__ import annotations

import numpy as np

from meshwright.planner.effort import Effort
from meshwright.planner.milp import PointModel
from meshwright.planner.moments import MomentRows, fits
from meshwright.planner.point import MemoryShortfall, PointProblem
from meshwright.planner.stage_totals import Counts, peak_memory_bytes


def leanest(problem: PointProblem, effort: Effort) -> tuple[Counts | None, MemoryShortfall | None]:
    """The assignment that exceeds the memory limit by least, and by how much; neither if the effort ends first."""
    model = PointModel(problem, 1.0, minimise_excess=True)
    moments = MomentRows(model)
    while True:
        result = model.solve(effort, integers=True)
        if not len(result.values):
            return None, None
        counts = np.rint(model.counts(result.values)).astype(np.int64)
        if not moments.add_broken(counts, over_bytes=result.objective / model.per_byte):
            break
    peaks = peak_memory_bytes(problem, counts)
    if fits(problem.memory_limit_bytes, peaks):
        return counts, None
    return counts, MemoryShortfall(
        device=int(peaks.argmax()),
        needed_bytes=float(peaks.max()),
        limit_bytes=problem.memory_limit_bytes,
        lower_bound_bytes=max(0.0, result.bound / model.per_byte),
    )
