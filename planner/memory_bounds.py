"""How fast a device with a known number of layers can be when its memory counts: a fractional knapsack.

Every layer has choices of time and bytes; dropping tensors costs time. Letting layers mix choices in any proportion,
the best mix starts with the fastest choices and exchanges where a byte costs least, until it fits: a lower bound.

And whether anything fits at all, whatever its time: every layer at its leanest (`least_excess_bytes`). Most of what can
be asked of a machine that is too small (very long sequences, say) is answered by this alone, without a solver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, pairwise
from math import isfinite

from meshwright.costmodel.simulate import ScheduleKind, build_schedule, in_flight_held
from meshwright.costmodel.step import SPLIT_BACKWARD
from meshwright.planner.choice import Choice, EndCost
from meshwright.planner.point import PointProblem

EXCESS_HALVINGS = 30
TINY = 1e-9
"""Bytes of a layer that takes none, to divide by."""

Chunk = tuple[int, int]
"""Micro-batches that a chunk holds, and those of them that are late (`costmodel.simulate.in_flight`)."""

Hull = tuple[tuple[float, float], ...]
"""(bytes, seconds) from the fastest choice to the leanest, convex."""


def busy_within_memory_s(problem: PointProblem, boundaries: Sequence[int]) -> tuple[float, ...]:
    """Least seconds of one micro-batch on each device within the memory limit; infinite where nothing fits."""
    held = _held(problem.kind, problem.num_stages, problem.num_micro_batches, problem.virtual_stages)
    hulls: dict[tuple[int, Chunk, float], Hull] = {}
    times = []
    for device, chunks in enumerate(problem.placement):
        room = problem.memory_limit_bytes - _ends_bytes(problem, chunks, held[device])
        layers: Counter[tuple[int, Chunk, float]] = Counter()
        shares = [
            overlapped_share(problem.kind, problem.num_stages, problem.num_micro_batches, device, chunk)
            for chunk in range(len(chunks))
        ]
        for chunk, (stage, share) in enumerate(zip(chunks, shares, strict=True)):
            for kind in problem.layer_types[boundaries[stage] : boundaries[stage + 1]]:
                layers[kind, held[device][chunk], share] += 1
        for kind, count, share in layers:
            if (kind, count, share) not in hulls:
                hulls[kind, count, share] = _hull(problem.choices[kind], count, problem.kind, share)
        room -= max((_least_transient(problem.choices[kind]) for kind, _, _ in layers), default=0.0)
        mix_s = _mix_s([(number, hulls[key]) for key, number in layers.items()], room)
        times.append(mix_s + sum(_seconds(part, problem.kind, shares[chunk]) for chunk, part in _ends(problem, chunks)))
    return tuple(times)


def least_excess_bytes(problem: PointProblem, boundaries: Sequence[int]) -> float:
    """Bytes by which every assignment exceeds the memory of some device, at least; 0 or less where one may fit.

    With known boundaries each device holds its own layers at their leanest. With a free split the devices together must
    have room for all layers of each type, in whole layers, and for the bytes of all types.
    """
    held = _held(problem.kind, problem.num_stages, problem.num_micro_batches, problem.virtual_stages)
    if boundaries:
        return max(
            _device_bytes(problem, chunks, held[device], boundaries) - problem.memory_limit_bytes
            for device, chunks in enumerate(problem.placement)
        )
    return _free_split_excess(problem, tuple(counts[0] for counts in held))


def _device_bytes(
    problem: PointProblem, chunks: Sequence[int], held: Sequence[Chunk], boundaries: Sequence[int]
) -> float:
    """The leanest that a device can be that holds these layers: over all limits on what passes, that and the rest."""
    layers = Counter(
        (kind, held[chunk])
        for chunk, stage in enumerate(chunks)
        for kind in problem.layer_types[boundaries[stage] : boundaries[stage + 1]]
    )
    beside = max((part.transient_bytes for _, part in _ends(problem, chunks)), default=0.0)
    leanest = min(
        max(passing, beside)
        + sum(
            number * _leanest_bytes(problem.choices[kind], count, passing) for (kind, count), number in layers.items()
        )
        for passing in _passing_levels(problem, {kind for kind, _ in layers})
    )
    return _ends_bytes(problem, chunks, held) + leanest


def _passing_levels(problem: PointProblem, kinds: Iterable[int]) -> list[float]:
    """What may pass through the memory of a device, apart from the ends: as much as some choice."""
    levels = {choice.transient_bytes for kind in kinds for choice in problem.choices[kind]}
    return sorted(levels) or [0.0]


def _leanest_bytes(choices: Sequence[Choice], held: Chunk, passing: float) -> float:
    """The least of a layer that passes no more; infinite where it must."""
    return min(
        (_held_bytes(choice, held) for choice in choices if choice.transient_bytes <= passing),
        default=float("inf"),
    )


def _free_split_excess(problem: PointProblem, held: tuple[Chunk, ...]) -> float:
    """`least_excess_bytes` where stages, one a device, share the layers as they like.

    Device p has room for c_p layers of one type, at the best limit on what passes through it; a layer of another type
    takes at least u of such a layer's room. The c_p must add up to the layers, and in whole layers to those of the type
    alone. How much more room they need is found by halving.
    """
    numbers = Counter(problem.layer_types)
    levels = _passing_levels(problem, numbers)
    leanest = {
        kind: [[_leanest_bytes(problem.choices[kind], count, level) for level in levels] for count in held]
        for kind in numbers
    }
    rooms = []
    for stage, count in enumerate(held):
        ends_bytes = _ends_bytes(problem, (stage,), (count,))
        beside = max((part.transient_bytes for _, part in _ends(problem, (stage,))), default=0.0)
        rooms.append([problem.memory_limit_bytes - ends_bytes - max(beside, level) for level in levels])

    def places(sizes: list[list[float]], more: float) -> list[float]:
        return [
            max(0.0, *((room + more) / max(size, TINY) for room, size in zip(device, layers, strict=True)))
            for device, layers in zip(rooms, sizes, strict=True)
        ]

    def has_room(kind: int, more: float) -> bool:
        whole = sum(int(place) for place in places(leanest[kind], more))
        return whole >= numbers[kind] and sum(places(unit_bytes[kind], more)) >= units[kind]

    shares = {kind: {other: _share(leanest, other, kind) for other in numbers} for kind in numbers}
    units = {kind: sum(number * shares[kind][other] for other, number in numbers.items()) for kind in numbers}
    unit_bytes = {kind: _unit_bytes(leanest, shares[kind], kind) for kind in numbers}
    high = problem.memory_limit_bytes
    excess = 0.0
    for kind in numbers:
        if not has_room(kind, excess):
            while not has_room(kind, high):
                high *= 2.0
            excess = _halved(partial(has_room, kind), excess, high)
    return excess


def _share(leanest: Mapping[int, list[list[float]]], kind: int, reference: int) -> float:
    """The room that a layer of a type takes at least, in layers of the reference."""
    if kind == reference:
        return 1.0
    pairs = zip(chain(*leanest[kind]), chain(*leanest[reference]), strict=True)
    return min((max(one, TINY) / max(other, TINY) for one, other in pairs if isfinite(other)), default=0.0)


def _unit_bytes(
    leanest: Mapping[int, list[list[float]]], shares: Mapping[int, float], reference: int
) -> list[list[float]]:
    """Bytes of a layer of the reference, [device][level]; where none can be, those that the others take for as much."""
    others = [kind for kind in leanest if kind != reference and shares[kind] > 0.0]

    def bytes_at(device: int, level: int) -> float:
        own = leanest[reference][device][level]
        if isfinite(own):
            return own
        return min((leanest[kind][device][level] / shares[kind] for kind in others), default=own)

    return [[bytes_at(device, level) for level in range(len(row))] for device, row in enumerate(leanest[reference])]


def _halved(enough: Callable[[float], bool], low: float, high: float) -> float:
    """The most that is surely not enough, between one that is not and one that is."""
    for _ in range(EXCESS_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low


def overlapped_share(kind: ScheduleKind, num_stages: int, num_micro_batches: int, device: int, chunk: int) -> float:
    """Share of a chunk's forwards that DualPipeV runs together with a backward; 0 in other schedules.

    Of m micro-batches, m - P of chunk 1, and m - 2 P + min(p + 1, P - 1) of chunk 0 on device p.

    Source: counted in the schedule (a test compares).

    >>> overlapped_share(ScheduleKind.DUALPIPE_V, 5, 20, 0, 0), overlapped_share(ScheduleKind.DUALPIPE_V, 5, 20, 0, 1)
    (0.55, 0.75)
    """
    if kind is not ScheduleKind.DUALPIPE_V:
        return 0.0
    together = num_micro_batches - num_stages
    if chunk == 0:
        together += min(device + 1, num_stages - 1) - num_stages
    return together / num_micro_batches


@lru_cache(maxsize=4096)
def _held(
    kind: ScheduleKind, num_stages: int, num_micro_batches: int, virtual_stages: int
) -> tuple[tuple[Chunk, ...], ...]:
    """Micro-batches that each device's chunks hold at one moment, at least: more micro-batches never hold fewer."""
    fewer = min(num_micro_batches, 2 * num_stages if kind is ScheduleKind.DUALPIPE_V else num_stages)
    moments = in_flight_held(build_schedule(kind, num_stages, fewer, virtual_stages))
    fullest = (max(found, key=lambda held: (sum(held.total), sum(held.late))) for found in moments)
    return tuple(tuple(zip(held.total, held.late, strict=True)) for held in fullest)


def _ends(problem: PointProblem, chunks: Sequence[int]) -> list[tuple[int, EndCost]]:
    """Embedding and head on a device, each with its chunk."""
    placed = ((0, problem.first), (problem.num_virtual_stages - 1, problem.last))
    return [(chunks.index(stage), part) for stage, part in placed if part is not None and stage in chunks]


def _ends_bytes(problem: PointProblem, chunks: Sequence[int], held: Sequence[Chunk]) -> float:
    return sum(_held_bytes(part, held[chunk]) for chunk, part in _ends(problem, chunks))


def _held_bytes(part: Choice | EndCost, held: Chunk) -> float:
    """State, and activations of so many micro-batches, so many of them late."""
    total, late = held
    return part.static_bytes + total * part.kept_bytes + late * part.late_bytes


def _least_transient(choices: Sequence[Choice]) -> float:
    return min(choice.transient_bytes for choice in choices)


def _hull(choices: Sequence[Choice], held: Chunk, kind: ScheduleKind, share: float) -> Hull:
    points = sorted((_seconds(choice, kind, share), _held_bytes(choice, held)) for choice in choices)
    hull: list[tuple[float, float]] = []
    for seconds, size in points:
        if hull and size >= hull[-1][0]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (size, seconds)):
            hull.pop()
        hull.append((size, seconds))
    return tuple(hull)


def _seconds(choice: Choice | EndCost, kind: ScheduleKind, share: float) -> float:
    """Both passes; `share` of the forwards run together with a backward, where the schedule has that."""
    if kind not in SPLIT_BACKWARD:
        return choice.forward_s + choice.backward_s
    both_s = choice.forward_s + choice.dgrad_s + choice.wgrad_s
    if kind is ScheduleKind.DUALPIPE_V:
        both_s -= share * choice.overlap_saving_s
    return both_s


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Seconds more for a byte less."""
    return (other[1] - one[1]) / (one[0] - other[0])


def _mix_s(layers: Sequence[tuple[int, Hull]], room: float) -> float:
    total_s = sum(number * hull[0][1] for number, hull in layers)
    over = sum(number * hull[0][0] for number, hull in layers) - room
    exchanges = sorted(
        (_slope(one, other), number * (one[0] - other[0])) for number, hull in layers for one, other in pairwise(hull)
    )
    for slope, size in exchanges:
        if over <= 0:
            break
        taken = min(size, over)
        total_s += slope * taken
        over -= taken
    return total_s if over <= 0 else float("inf")
