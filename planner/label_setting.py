"""The fastest choices for given layers of one device within its memory, by setting labels (seconds, bytes)."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.alike_chunks import alike_kinds, alike_stages
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import free_bytes, moments, own_seconds, tables

MAX_LABELS = 512

Indices: TypeAlias = npt.NDArray[np.int64]

Layers: TypeAlias = tuple[tuple[int, int, int], ...]
"""(virtual stage, type, count) of the layers of one device."""

Block: TypeAlias = tuple[tuple[int, ...], int]
"""One layer of a type on each of some virtual stages, all with the same choice."""

Mix: TypeAlias = dict[tuple[int, int], int]
"""(virtual stage, item): layers."""


@lru_cache(maxsize=4096)
def fastest_mix(problem: PointProblem, device: int, layers: Layers, margin_bytes: float = 0.0) -> Mix | None:
    """The fastest choices for the layers of one device that leave `margin_bytes` free; None where none is found.

    Fast means the device's own time in the step: all micro-batches and once a step. Exact for a device with one chunk,
    up to `MAX_LABELS` undominated labels; with several chunks it fits at a typical moment.
    """
    blocks = _blocks(problem, device, layers)
    if blocks is None:
        return None
    table = tables(problem)
    base = table.end_transient[list(problem.placement[device])].max()
    transient = np.maximum(table.column("transient_bytes"), base)
    held, late = np.split(_typical_held(problem, device), 2)
    best: tuple[float, Mix] | None = None
    for charged in np.unique(transient[np.isin(table.item_types, [kind for _, kind in blocks])]):
        budget = free_bytes(problem, device, held, late) - charged - margin_bytes
        found = _mix_within(problem, blocks, (held, late), budget, transient <= charged)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    return best[1] if best else ({} if not blocks else None)


def _blocks(problem: PointProblem, device: int, layers: Layers) -> list[Block] | None:
    """Layers that must use one choice together, position by position in alike chunks; None if they can't be."""
    alike = set(alike_stages(problem)[device])
    blocks: list[Block] = []
    for kind in sorted({kind for _, kind, _ in layers}):
        counts = {stage: count for stage, other, count in layers if other == kind}
        tied = {stage: counts.get(stage, 0) for stage in sorted(alike)} if kind in alike_kinds(problem) else {}
        most = max(tied.values(), default=0)
        if most - min(tied.values(), default=0) > 1:
            return None
        blocks += [
            (tuple(s for s, count in tied.items() if count >= position), kind) for position in range(1, most + 1)
        ]
        blocks += [((stage,), kind) for stage, count in counts.items() if stage not in tied for _ in range(count)]
    return blocks


def _typical_held(problem: PointProblem, device: int) -> Array:
    """Micro-batches held of each chunk, then the late ones: the mean of all moments that can be the worst.

    As many are held as the fullest holds.
    """
    found = moments(problem, device)
    mean: Array = found.mean(axis=0)
    total = slice(0, problem.virtual_stages)
    fullest = float(found[:, total].sum(axis=1).max())
    return mean * (fullest / max(1.0, float(mean[total].sum())))


def _mix_within(
    problem: PointProblem, blocks: list[Block], held: tuple[Array, Array], budget: float, allowed: Array
) -> tuple[float, Mix] | None:
    """(seconds, mix) of the fastest label that fits the budget."""
    table = tables(problem)
    seconds_of, static = own_seconds(problem), table.column("static_bytes")
    kept, late = table.column("kept_bytes"), table.column("late_bytes")
    seconds, used, trail = np.zeros(1), np.zeros(1), []
    for stages, kind in blocks:
        items = np.flatnonzero((table.item_types == kind) & allowed)
        total, waiting = (counts[table.chunk[list(stages)]].sum() for counts in held)
        item_bytes = len(stages) * static[items] + total * kept[items] + waiting * late[items]
        candidates = (
            (seconds[:, None] + len(stages) * seconds_of[items]).ravel(),
            (used[:, None] + item_bytes).ravel(),
        )
        chosen = _undominated(*candidates, budget)
        if not len(chosen):
            return None
        seconds, used = candidates[0][chosen], candidates[1][chosen]
        trail.append((stages, items, chosen))
    return float(seconds[0]), _walk_back(trail)


def _undominated(seconds: Array, used: Array, budget: float) -> Indices:
    """Labels within the budget that no other equals or beats, fastest first; of too many, one a bucket of bytes."""
    order: Indices = np.lexsort((used, seconds))
    order = order[used[order] <= budget]
    if not len(order):
        return order
    least = np.minimum.accumulate(used[order])
    kept: Indices = order[np.concatenate([[True], used[order][1:] < least[:-1] * (1.0 - 1e-12)])]
    if len(kept) <= MAX_LABELS:
        return kept
    buckets = np.floor(used[kept] / budget * MAX_LABELS)
    thinned: Indices = kept[np.concatenate([[True], buckets[1:] < buckets[:-1]])]
    return thinned


def _walk_back(trail: list[tuple[tuple[int, ...], Indices, Indices]]) -> Mix:
    """The layers of each item behind the first label, from the last block back."""
    mix: Mix = {}
    label = 0
    for stages, items, chosen in reversed(trail):
        label, index = divmod(int(chosen[label]), len(items))
        for stage in stages:
            key = (stage, int(items[index]))
            mix[key] = mix.get(key, 0) + 1
    return mix
