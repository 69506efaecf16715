"""How fast a device can be with k layers, given its memory: label setting over (layers, memory), one device at a time.

A device's choices are an integer knapsack, whose relaxation mixes fractions of layers; that is most of what separates
the bound of the linear program from the truth. The exact curve g(k), the least seconds of one micro-batch through k
layers of a type that fit, gives rows that cut those fractions off: every chord of its lower convex hull is one.

Labels lie on a grid of memory, rounded down, so g is never too high. Transients come in a few groups: within a group the
items up to its largest are allowed and its smallest is charged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.simulate import in_flight
from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import COLUMN, tables

GRID = 2048
MAX_TRANSIENT_GROUPS = 4
MAX_LABELS = 512

Indices: TypeAlias = npt.NDArray[np.int64]

Mix: TypeAlias = dict[tuple[int, int], int]
"""(virtual stage, item): layers."""


def micro_batch_s(problem: PointProblem, costs: Array) -> Array:
    """Forward and backward of one micro-batch, from arrays whose last axis are the cost fields."""
    names = ("forward_s", "dgrad_s", "wgrad_s") if problem.is_split else ("forward_s", "backward_s")
    result: Array = sum((costs[..., COLUMN[name]] for name in names), np.zeros(costs.shape[:-1]))
    return result


def least_seconds(problem: PointProblem, device: int, kind: int, most: int) -> Array:
    """g[k] for k = 0 .. most layers of a type on the device: seconds of one micro-batch, infinite where none fits."""
    table = tables(problem)
    mine = np.flatnonzero(table.item_types == kind)
    transient = table.column("transient_bytes")[mine]
    stages = list(problem.placement[device])
    base = table.end_transient[stages].max()
    best = np.full(most + 1, np.inf)
    best[0] = 0.0
    for charged, allowed in _transient_groups(np.maximum(transient, base)):
        budget = _budget_bytes(problem, device) - charged
        curve = _curve(problem, device, mine[allowed], budget, most)
        best = np.minimum(best, curve)
    return best


@lru_cache(maxsize=4096)
def fastest_mix(
    problem: PointProblem, device: int, layers: tuple[tuple[int, int, int], ...], margin_bytes: float = 0.0
) -> Mix | None:
    """The fastest choices for `layers` [(virtual stage, type, count)] of one device that fit; None where none is found.

    `margin_bytes` are left free. Exact for a device with one chunk, up to `MAX_LABELS` undominated labels; with several chunks it fits at a
    typical moment. Fast means the device's own time in the step: all micro-batches and once a step.
    """
    table = tables(problem)
    base = table.end_transient[list(problem.placement[device])].max()
    transient = np.maximum(table.column("transient_bytes"), base)
    best: tuple[float, Mix] | None = None
    for charged in np.unique(transient[np.isin(table.item_types, [kind for _, kind, _ in layers])]):
        budget = _budget_bytes(problem, device) - charged - margin_bytes
        found = _mix_within(problem, device, layers, budget, transient <= charged)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    return best[1] if best else ({} if not layers else None)


def own_seconds(problem: PointProblem) -> Array:
    """What a layer of each item adds to its device's step: every micro-batch, gather, reduction, optimizer."""
    table = tables(problem)
    once = table.column("param_gather_s") + table.column("grad_reduce_s") + table.column("optimizer_s")
    result: Array = problem.num_micro_batches * micro_batch_s(problem, table.costs) + once
    return result


def _mix_within(
    problem: PointProblem, device: int, layers: Sequence[tuple[int, int, int]], budget: float, allowed: Array
) -> tuple[float, Mix] | None:
    """(seconds, mix) of the fastest label that fits the budget."""
    table, held = tables(problem), _typical_held(problem, device)
    seconds_of, static, kept = own_seconds(problem), table.column("static_bytes"), table.column("kept_bytes")
    seconds, used, trail = np.zeros(1), np.zeros(1), []
    for stage, kind, count in layers:
        items = np.flatnonzero((table.item_types == kind) & allowed)
        if not len(items):
            return None
        item_bytes = static[items] + held[table.chunk[stage]] * kept[items]
        for _ in range(count):
            candidates = (seconds[:, None] + seconds_of[items]).ravel(), (used[:, None] + item_bytes).ravel()
            chosen = _undominated(*candidates, budget)
            if not len(chosen):
                return None
            seconds, used = candidates[0][chosen], candidates[1][chosen]
            trail.append((stage, items, chosen))
    return float(seconds[0]), _walk_back(trail)


def _undominated(seconds: Array, used: Array, budget: float) -> Indices:
    """Labels within the budget that no other equals or beats in both, fastest first; the last of each of many bytes."""
    order = np.lexsort((used, seconds))
    order = order[used[order] <= budget]
    if not len(order):
        return order
    least = np.minimum.accumulate(used[order])
    kept = order[np.concatenate([[True], used[order][1:] < least[:-1] * (1.0 - 1e-12)])]
    if len(kept) <= MAX_LABELS:
        return kept
    buckets = np.floor(used[kept] / budget * MAX_LABELS)
    return kept[np.concatenate([[True], buckets[1:] < buckets[:-1]])]


def _walk_back(trail: list[tuple[int, Indices, Indices]]) -> Mix:
    """The items of the first label, from the last layer back."""
    mix: Mix = {}
    label = 0
    for stage, items, chosen in reversed(trail):
        label, index = divmod(int(chosen[label]), len(items))
        key = (stage, int(items[index]))
        mix[key] = mix.get(key, 0) + 1
    return mix


def hull_chords(curve: Array) -> Iterator[tuple[float, float]]:
    """(slope, intercept) of the chords of the lower convex hull of the finite points (k, curve[k]).

    >>> list(hull_chords(np.array([0.0, 1.0, 4.0, 5.0, np.inf])))
    [(1.0, 0.0), (2.0, -1.0)]
    """
    hull: list[tuple[int, float]] = []
    for k in np.flatnonzero(np.isfinite(curve)).tolist():
        point = (k, float(curve[k]))
        while len(hull) > 1 and _turns_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    for (k, low), (next_k, high) in zip(hull, hull[1:], strict=False):
        slope = (high - low) / (next_k - k)
        yield slope, low - slope * k


def _turns_down(a: tuple[int, float], b: tuple[int, float], c: tuple[int, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def _transient_groups(transient: Array) -> Iterator[tuple[float, Array]]:
    levels = np.unique(transient)
    for group in np.array_split(levels, min(len(levels), MAX_TRANSIENT_GROUPS)):
        yield float(group[0]), transient <= group[-1]


def _held(problem: PointProblem, device: int) -> tuple[int, ...]:
    """The moment that counts: with one chunk the only one, else the one with most micro-batches held."""
    return max(in_flight(problem.schedule)[device], key=sum)


def _typical_held(problem: PointProblem, device: int) -> Array:
    """Micro-batches held of each chunk: the mean of all moments that can be the worst, as many as the largest holds."""
    moments = np.array(in_flight(problem.schedule)[device], dtype=np.float64)
    mean: Array = moments.mean(axis=0)
    return mean * (moments.sum(axis=1).max() / max(1.0, mean.sum()))


def _budget_bytes(problem: PointProblem, device: int) -> float:
    table, stages = tables(problem), list(problem.placement[device])
    ends = table.end("static_bytes")[stages] + np.array(_held(problem, device)) * table.end("kept_bytes")[stages]
    return float(problem.memory_limit_bytes - table.reserved_bytes[device] - ends.sum())


def _curve(problem: PointProblem, device: int, items: Array, budget: float, most: int) -> Array:
    """The least seconds over all mixes of the items whose bytes, rounded down to the grid, fit the budget."""
    curve = np.full(most + 1, np.inf)
    if budget <= 0:
        return curve
    table = tables(problem)
    seconds = micro_batch_s(problem, table.costs)[items]
    fewest_held = min(_held(problem, device))
    unit = budget / GRID
    labels = np.full((most + 1, GRID + 1), np.inf)
    labels[0] = 0.0
    item_bytes = table.column("static_bytes")[items] + fewest_held * table.column("kept_bytes")[items]
    steps = np.floor(item_bytes / unit).astype(np.int64)
    for k in range(1, most + 1):
        for second, step in zip(seconds, steps, strict=True):
            if step <= GRID:
                np.minimum(labels[k, step:], labels[k - 1, : GRID + 1 - step] + second, out=labels[k, step:])
        curve[k] = labels[k, GRID]
    return curve
