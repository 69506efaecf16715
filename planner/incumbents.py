"""First assignments, without a solver: a balanced split, and on each device the fastest mix of choices that fits.

The mix starts with the fastest choice everywhere and, while memory does not suffice, exchanges the choice of one layer
for the one that frees most bytes for a second more.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from meshwright.costmodel.simulate import in_flight
from meshwright.planner.label_setting import fastest_mix, micro_batch_s, own_seconds
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import Counts, peak_memory_bytes, tables

MAX_MARGINS = 6


def balanced_split(problem: PointProblem) -> tuple[int, ...]:
    """Layers per virtual stage such that devices have about equal work.

    Layers of one type go one by one to the device with least work, there to the chunk with fewest. Where types differ,
    boundaries lie where the work before them is nearest to their share of all work.
    """
    table = tables(problem)
    seconds = micro_batch_s(problem, table.costs)
    fastest = {kind: float(seconds[table.item_types == kind].min()) for kind in set(problem.layer_types)}
    if len(fastest) == 1:
        return _fill(problem, *fastest.values())
    return _cut(problem, [fastest[kind] for kind in problem.layer_types])


def _fill(problem: PointProblem, layer_s: float) -> tuple[int, ...]:
    table = tables(problem)
    layers = [problem.fewest_layers(stage) for stage in range(problem.num_virtual_stages)]
    ends = micro_batch_s(problem, table.ends)
    load = [sum(ends[stage] + layer_s * layers[stage] for stage in stages) for stages in problem.placement]
    for _ in range(len(problem.layer_types) - sum(layers)):
        device = int(np.argmin(load))
        layers[min(problem.placement[device], key=lambda stage: layers[stage] + ends[stage] / layer_s)] += 1
        load[device] += layer_s
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
    """Choices for a split, device by device: the fastest mix that fits, or one found by exchanges; None without any."""
    counts = np.zeros((problem.num_virtual_stages, len(tables(problem).items)), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(split)])
    for device, stages in enumerate(problem.placement):
        layers = [
            (stage, kind, count)
            for stage in stages
            for kind, count in sorted(Counter(problem.layer_types[starts[stage] : starts[stage + 1]]).items())
        ]
        if not (_set_mix(problem, device, counts, tuple(layers)) or _exchange(problem, device, counts, layers)):
            return None
    return counts


def _set_mix(problem: PointProblem, device: int, counts: Counts, layers: tuple[tuple[int, int, int], ...]) -> bool:
    """Sets the fastest mix, with more and more bytes left free until it fits at every moment; whether it does."""
    margin_bytes = 0.0
    for attempt in range(1, MAX_MARGINS + 1):
        mix = fastest_mix(problem, device, layers, margin_bytes)
        if mix is None:
            return False
        counts[list(problem.placement[device])] = 0
        for (stage, item), count in mix.items():
            counts[stage, item] = count
        over_bytes = peak_memory_bytes(problem, counts)[device] - problem.memory_limit_bytes
        if over_bytes <= 0:
            return True
        margin_bytes += over_bytes * attempt
    return False


def _set_fastest(problem: PointProblem, counts: Counts, layers: list[tuple[int, int, int]]) -> None:
    seconds, types = own_seconds(problem), tables(problem).item_types
    for stage in {stage for stage, _, _ in layers}:
        counts[stage] = 0
    for stage, kind, count in layers:
        counts[stage, np.where(types == kind, seconds, np.inf).argmin()] += count


def _exchange(problem: PointProblem, device: int, counts: Counts, layers: list[tuple[int, int, int]]) -> bool:
    """Starts with the fastest choices and exchanges them one by one until the device fits; whether it does."""
    _set_fastest(problem, counts, layers)
    table, seconds = tables(problem), own_seconds(problem)
    stages = list(problem.placement[device])
    moments = np.array(in_flight(problem.schedule)[device], dtype=np.float64)
    static, kept, transient = (table.column(f"{name}_bytes") for name in ("static", "kept", "transient"))
    fixed = (
        table.reserved_bytes[device]
        + table.end("static_bytes")[stages].sum()
        + moments @ table.end("kept_bytes")[stages]
    )
    end_transient = table.end_transient[stages].max()
    slower = np.maximum(seconds[None, :] - seconds[:, None], 1e-12)
    same_type = table.item_types[None, :] == table.item_types[:, None]
    for _ in range(4 * len(problem.layer_types) * len(table.items)):
        mine = counts[stages]
        largest = max(end_transient, np.where(mine.any(axis=0), transient, 0.0).max())
        needed = fixed + (mine @ static).sum() + moments @ (mine @ kept) + largest
        worst = int(needed.argmax())
        if needed[worst] <= problem.memory_limit_bytes:
            return True
        item_bytes = static[None, :] + moments[worst][:, None] * kept[None, :]
        freed = item_bytes[:, :, None] - item_bytes[:, None, :]
        freed = freed - np.maximum(0.0, transient - largest) / max(1, mine.sum())
        worth = np.where((mine > 0)[:, :, None] & same_type & (freed > 0), freed / slower, -1.0)
        chunk, old, new = np.unravel_index(int(worth.argmax()), worth.shape)
        if worth[chunk, old, new] <= 0:
            return False
        counts[stages[chunk], old] -= 1
        counts[stages[chunk], new] += 1
    return False
