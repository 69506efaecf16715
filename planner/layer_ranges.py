"""How many layers of a type each device can have at all, by its work alone, for a step within a target."""

from __future__ import annotations

from itertools import product

import numpy as np

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.device_curve import least_seconds
from meshwright.planner.incumbents import given_layers
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import micro_batch_s, tables


def layer_places(problem: PointProblem) -> list[tuple[int, int]]:
    """(device, layer type), in the order of the program's first columns of layers."""
    return list(product(range(problem.num_stages), sorted(set(problem.layer_types))))


def layer_ranges(problem: PointProblem, target_s: float, upper: Array) -> tuple[Array, Array]:
    """Least and most layers by place, for steps faster than the target; other columns from 0 to `upper`.

    A device has no more than it can run for all micro-batches in time, and no fewer than the others leave. Under
    DualPipe, where a device's work overlaps with itself, nothing follows.
    """
    low, high = np.zeros_like(upper), upper.copy()
    places = layer_places(problem)
    if problem.boundaries:
        low[: len(places)] = high[: len(places)] = [given_layers(problem, *place) for place in places]
    elif problem.kind is not ScheduleKind.DUALPIPE_V and target_s < float("inf"):
        high[: len(places)] = [_most_layers(problem, target_s, *place) for place in places]
        for index, (_, kind) in enumerate(places):
            of_kind = sum(high[other] for other, (_, other_kind) in enumerate(places) if other_kind == kind)
            low[index] = max(0.0, problem.layer_types.count(kind) - of_kind + high[index])
    return low, high


def _most_layers(problem: PointProblem, target_s: float, device: int, kind: int) -> int:
    """Layers of a type that a device can run for all micro-batches within the target."""
    ends_s = micro_batch_s(problem, tables(problem).ends)[list(problem.placement[device])].sum()
    left_s = target_s / problem.num_micro_batches - ends_s
    return int(np.flatnonzero(least_seconds(problem, device, kind) <= left_s).max(initial=0))
