"""First assignments, without a solver: a balanced split, and on each device the fastest mix of choices that fits."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np

from meshwright.planner.device_curve import least_seconds
from meshwright.planner.label_setting import Layers, fastest_mix
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import Counts, micro_batch_s, peak_memory_bytes, tables

MAX_MARGINS = 10


def balanced_split(problem: PointProblem) -> tuple[int, ...]:
    """Layers per virtual stage such that devices have about equal work.

    Layers of one type go one by one to the device that is fastest with one more, given its memory, there to the chunk
    with fewest (the later one, which holds less). Where types differ, boundaries lie where the work before them is
    nearest to their share of all work.
    """
    if problem.boundaries:
        return tuple(end - start for start, end in pairwise(problem.boundaries))
    seconds, types = micro_batch_s(problem, tables(problem).costs), tables(problem).item_types
    fastest = {kind: float(seconds[types == kind].min()) for kind in set(problem.layer_types)}
    if len(fastest) == 1:
        return _fill(problem)
    return _cut(problem, [fastest[kind] for kind in problem.layer_types])


def given_layers(problem: PointProblem, device: int, kind: int) -> int:
    """Layers of a type on a device of a problem whose boundaries are given."""
    bounds = problem.boundaries
    return sum(
        problem.layer_types[bounds[stage] : bounds[stage + 1]].count(kind) for stage in problem.placement[device]
    )


def _fill(problem: PointProblem) -> tuple[int, ...]:
    layers = [problem.fewest_layers(stage) for stage in range(problem.num_virtual_stages)]
    ends = micro_batch_s(problem, tables(problem).ends)
    curves = [least_seconds(problem, device, problem.layer_types[0]) for device in range(problem.num_stages)]

    def seconds_with_one_more(device: int) -> float:
        stages = problem.placement[device]
        number = sum(layers[stage] for stage in stages) + 1
        return float(curves[device][min(number, len(curves[device]) - 1)] + sum(ends[stage] for stage in stages))

    for _ in range(len(problem.layer_types) - sum(layers)):
        device = min(range(problem.num_stages), key=seconds_with_one_more)
        layers[min(problem.placement[device], key=lambda stage: (layers[stage], ends[stage], -stage))] += 1
    return tuple(layers)


def _cut(problem: PointProblem, layer_s: list[float]) -> tuple[int, ...]:
    ends = micro_batch_s(problem, tables(problem).ends)
    before = np.concatenate([[0.0], np.cumsum(layer_s)]) + ends[0]
    total = before[-1] + (ends[-1] if len(ends) > 1 else 0.0)
    stages = problem.num_virtual_stages
    fewest = [problem.fewest_layers(stage) for stage in range(stages)]
    boundaries = [0]
    for stage in range(1, stages):
        nearest = int(np.abs(before - total * stage / stages).argmin())
        least = boundaries[-1] + fewest[stage - 1]
        most = len(layer_s) - sum(fewest[stage:])
        boundaries.append(min(max(nearest, least), most))
    boundaries.append(len(layer_s))
    return tuple(int(count) for count in np.diff(boundaries))


def fitting_mix(problem: PointProblem, split: tuple[int, ...]) -> Counts | None:
    """Choices for a split, device by device: the fastest mix that fits; None where none is found."""
    counts = np.zeros((problem.num_virtual_stages, len(tables(problem).items)), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(split)])
    for device, stages in enumerate(problem.placement):
        layers = [
            (stage, kind, count)
            for stage in stages
            for kind, count in sorted(Counter(problem.layer_types[starts[stage] : starts[stage + 1]]).items())
        ]
        if not _set_mix(problem, device, counts, tuple(layers)):
            return None
    return counts


def _set_mix(problem: PointProblem, device: int, counts: Counts, layers: Layers) -> bool:
    """Sets the fastest mix, with more and more bytes left free until it fits at every moment; whether it does."""
    margin_bytes = 0.0
    for _ in range(MAX_MARGINS):
        mix = fastest_mix(problem, device, layers, margin_bytes)
        if mix is None:
            return False
        counts[list(problem.placement[device])] = 0
        for (stage, item), count in mix.items():
            counts[stage, item] = count
        over_bytes = peak_memory_bytes(problem, counts)[device] - problem.memory_limit_bytes
        if over_bytes <= 0:
            return True
        margin_bytes = 1.5 * margin_bytes + over_bytes
    return False
