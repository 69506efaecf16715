"""What chunks of one device have in common: the rule that keeps interleaved pipelines even, and searchable.

A device with several chunks runs them in turn, so chunks of unequal length make its neighbours wait. The rule: on each
device all chunks use the same choices, layer by layer; some chunks may have one layer of a type more, all of one
choice. In counts n[chunk, item]: for each layer type, the sum over its items of (most - fewest of any chunk) is at
most 1.

Free of it are virtual stages that leading or trailing layers of rare types (such as a few dense layers before a stack
of experts) can reach. Where rare types lie elsewhere the rule does not apply at all. Where boundaries are given, chunks
that are shorter by more than one layer of a type are free of it, too.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import takewhile

import numpy as np

from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import Counts, tables


@lru_cache(maxsize=256)
def alike_kinds(problem: PointProblem) -> frozenset[int]:
    """The layer types under the rule: with a layer for each virtual stage but two; none with one chunk a device."""
    if problem.virtual_stages == 1 or not problem.alike_chunks:
        return frozenset()
    common = _common(problem)
    first, last = _rare_ends(problem, common)
    inside = problem.layer_types[first : len(problem.layer_types) - last]
    return common if set(inside) <= common else frozenset()


@lru_cache(maxsize=256)
def alike_stages(problem: PointProblem) -> tuple[tuple[int, ...], ...]:
    """For each device its virtual stages under the rule, where there are at least two."""
    if not alike_kinds(problem):
        return ((),) * problem.num_stages
    if problem.boundaries:
        return tuple(_alike_as_given(problem, chunks) for chunks in problem.placement)
    stages = problem.num_virtual_stages
    fewest = [problem.fewest_layers(stage) for stage in range(stages)]
    first, last = _rare_ends(problem, _common(problem))
    free = {stage for stage in range(stages) if sum(fewest[:stage]) < first or sum(fewest[stage + 1 :]) < last}
    alike = (tuple(stage for stage in chunks if stage not in free) for chunks in problem.placement)
    return tuple(chunks if len(chunks) > 1 else () for chunks in alike)


def chunks_agree(problem: PointProblem, counts: Counts) -> bool:
    """Whether an assignment keeps the rule."""
    types = tables(problem).item_types
    for stages in filter(None, alike_stages(problem)):
        spread = np.ptp(counts[list(stages)], axis=0)
        if any(spread[types == kind].sum() > 1 for kind in alike_kinds(problem)):
            return False
    return True


def _alike_as_given(problem: PointProblem, chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Of a device's virtual stages with given boundaries, those with common types alone and not too few of any."""
    bounds, common = problem.boundaries, _common(problem)
    layers = {stage: Counter(problem.layer_types[bounds[stage] : bounds[stage + 1]]) for stage in chunks}
    plain = [stage for stage in chunks if set(layers[stage]) <= common]
    most = {kind: max((layers[stage][kind] for stage in plain), default=0) for kind in common}
    alike = tuple(stage for stage in plain if all(layers[stage][kind] >= most[kind] - 1 for kind in common))
    return alike if len(alike) > 1 else ()


def _common(problem: PointProblem) -> frozenset[int]:
    counts = Counter(problem.layer_types)
    return frozenset(kind for kind, count in counts.items() if count >= problem.num_virtual_stages - 2)


def _rare_ends(problem: PointProblem, common: frozenset[int]) -> tuple[int, int]:
    """Layers of rare types at the start and at the end of the stack."""

    def length(kinds: tuple[int, ...]) -> int:
        return len(tuple(takewhile(lambda kind: kind not in common, kinds)))

    return length(problem.layer_types), length(problem.layer_types[::-1])
