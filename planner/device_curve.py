"""How fast a device can be with k layers of a type, given its memory: the exact curve, and the rows it gives.

A device's choices are an integer knapsack, whose relaxation mixes fractions of layers; that is most of what separates
the bound of the linear program from the truth. The curve g(k), the least seconds of one micro-batch through k layers of
a type that fit, cuts those fractions off: every chord of its lower convex hull is a row.

Labels (layers, memory) lie on a grid of memory, rounded down, so g is never too high. Transients come in a few groups:
within a group the items up to its largest are allowed and its smallest is charged.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

from meshwright.costmodel.simulate import in_flight
from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.alike_chunks import alike_kinds, alike_stages
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import MEMORY_TOLERANCE, free_bytes, micro_batch_s, tables

GRID = 2048
MAX_TRANSIENT_GROUPS = 4


@lru_cache(maxsize=1024)
def least_seconds(problem: PointProblem, device: int, kind: int) -> Array:
    """g[k] for k = 0, 1, ... layers of a type on the device: seconds of one micro-batch, infinite where none fits."""
    table = tables(problem)
    mine = np.flatnonzero(table.item_types == kind)
    transient = table.column("transient_bytes")[mine]
    base = table.end_transient[list(problem.placement[device])].max()
    best = np.full(problem.layer_types.count(kind) + 1, np.inf)
    best[0] = 0.0
    slack = MEMORY_TOLERANCE * problem.memory_limit_bytes
    for charged, allowed in _transient_groups(np.maximum(transient, base)):
        budget = free_bytes(problem, device, _fullest(problem, device)) - charged + slack
        if budget > 0:
            most = min(len(best) - 1, _most_layers(problem, device))
            curve = _curve(problem, device, mine[allowed], budget, most)
            best[: most + 1] = np.minimum(best[: most + 1], curve)
    return best


def _most_layers(problem: PointProblem, device: int) -> int:
    """Layers left for a device when every other virtual stage holds as few as it may."""
    others = set(range(problem.num_virtual_stages)).difference(problem.placement[device])
    return len(problem.layer_types) - sum(map(problem.fewest_layers, others))


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
    for (k, low), (next_k, high) in pairwise(hull):
        slope = (high - low) / (next_k - k)
        yield slope, low - slope * k


def _turns_down(a: tuple[int, float], b: tuple[int, float], c: tuple[int, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def _transient_groups(transient: Array) -> Iterator[tuple[float, Array]]:
    levels = np.unique(transient)
    for group in np.array_split(levels, min(len(levels), MAX_TRANSIENT_GROUPS)):
        yield float(group[0]), transient <= group[-1]


def _fullest(problem: PointProblem, device: int) -> tuple[int, ...]:
    """The moment with most micro-batches held; with one chunk it is the worst."""
    return max(in_flight(problem.schedule)[device], key=sum)


def _curve(problem: PointProblem, device: int, items: Array, budget: float, most: int) -> Array:
    """The least seconds over all mixes of the items whose bytes, rounded down to the grid, fit the budget.

    Chunks that are alike come as blocks, one layer in each chunk; the layers over one whole block lie in the chunks
    that hold least. Otherwise every layer lies in the chunk that holds least.
    """
    held = sorted(_fullest(problem, device))
    kind = int(tables(problem).item_types[items[0]])
    whole = len(alike_stages(problem)[device]) == problem.virtual_stages and kind in alike_kinds(problem)
    size = problem.virtual_stages if whole else 1
    labels = [np.zeros(GRID + 1)]
    curve = np.full(most + 1, np.inf)
    for k in range(most + 1):
        blocks, rest = divmod(k, size)
        if blocks == len(labels):
            labels.append(_extended(problem, labels[-1], items, budget, held[:size]))
        curve[k] = (_extended(problem, labels[blocks], items, budget, held[:rest]) if rest else labels[blocks])[GRID]
        if size == 1 and not np.isfinite(curve[k]):
            break
    return curve


def _extended(problem: PointProblem, labels: Array, items: Array, budget: float, held: list[int]) -> Array:
    """Labels [bytes on the grid] -> seconds, with one more layer of one item in as many chunks as `held` counts."""
    table = tables(problem)
    seconds = len(held) * micro_batch_s(problem, table.costs)[items]
    item_bytes = len(held) * table.column("static_bytes")[items] + sum(held) * table.column("kept_bytes")[items]
    longer = np.full(GRID + 1, np.inf)
    for second, step in zip(seconds, np.floor(item_bytes * (GRID / budget)).astype(np.int64), strict=True):
        if step <= GRID:
            np.minimum(longer[step:], labels[: GRID + 1 - step] + second, out=longer[step:])
    return longer
