"""The launches of a pass once it is decided which pairs are fused, and what each launch waits for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import heappop, heappush

from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.pass_problem import (
    NO_LINK,
    NUM_STREAMS,
    CoveredCommunication,
    PassProblem,
    PassShape,
    covered_communications,
    unrelated,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grouping:
    """Operators grouped into launches, numbered so that each comes after what it waits for; dependencies by number.

    `link`: the stream of a launch's communication; `on_compute`: whether it occupies the compute stream; `computes`:
    whether it slows and is slowed.
    """

    groups: tuple[tuple[int, ...], ...]
    pairs: tuple[FusedPair | None, ...]
    link: tuple[int, ...]
    on_compute: tuple[bool, ...]
    computes: tuple[bool, ...]
    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]


def grouping_of(problem: PassProblem, fused: tuple[FusedPair, ...] = ()) -> Grouping:
    """The launches with the given pairs fused; no operator may be in two of them."""
    return _grouping(problem.shape, fused)


def unit_times_s(problem: PassProblem, grouping: Grouping) -> list[float]:
    """Seconds of each launch when nothing else runs."""
    return [
        problem.time_s[members[0]] if pair is None else problem.fused_times_s(pair)[0]
        for members, pair in zip(grouping.groups, grouping.pairs, strict=True)
    ]


def tails_s(grouping: Grouping, times_s: list[float]) -> list[float]:
    """Seconds from the start of each launch to the end of the longest path that it begins."""
    tails = [0.0] * len(times_s)
    for number in reversed(range(len(times_s))):
        longest_s = 0.0
        for next_ in grouping.after[number]:
            if tails[next_] > longest_s:
                longest_s = tails[next_]
        tails[number] = times_s[number] + longest_s
    return tails


def with_fused(problem: PassProblem, grouping: Grouping) -> PassProblem:
    """The problem in which the launches of a grouping are the operators: fused ones compute, none is left to fuse."""
    times_s = unit_times_s(problem, grouping)
    occupied_s = [0.0] * NUM_STREAMS
    for time_s, link, on_compute in zip(times_s, grouping.link, grouping.on_compute, strict=True):
        if on_compute and link != NO_LINK:
            occupied_s[link] += time_s
    return replace(
        problem,
        operators=tuple(problem.operators[members[0]] for members in grouping.groups),
        time_s=tuple(times_s),
        shape=_fused_shape(grouping),
        occupied_s=tuple(occupied_s),
    )


@lru_cache(maxsize=8192)
def _fused_shape(grouping: Grouping) -> PassShape:
    link = tuple(
        NO_LINK if computes else stream for stream, computes in zip(grouping.link, grouping.on_compute, strict=True)
    )
    apart = unrelated(grouping.before)
    return PassShape(
        link=link,
        is_compute=grouping.computes,
        before=grouping.before,
        apart=apart,
        pairs=(),
        communications=tuple(_without_own_link(one, grouping) for one in covered_communications(link, apart, ())),
    )


def _without_own_link(covered: CoveredCommunication, grouping: Grouping) -> CoveredCommunication:
    """Fused kernels that need the link of a communication do not run beside it."""
    link = grouping.link[covered.index]
    kernels = sum(
        1 << number for number, pair in enumerate(grouping.pairs) if pair is not None and grouping.link[number] == link
    )
    return replace(covered, beside=covered.beside & ~kernels, cover=covered.cover & ~kernels)


@lru_cache(maxsize=8192)
def _grouping(shape: PassShape, fused: tuple[FusedPair, ...]) -> Grouping:
    kernels = {pair.members: pair for pair in fused}
    home = {index: members for members in kernels for index in members}
    groups = _in_order(shape, tuple(dict.fromkeys(home.get(index, (index,)) for index in range(len(shape.before)))))
    before = _waits(shape, groups)
    after: list[list[int]] = [[] for _ in groups]
    for number, sources in enumerate(before):
        for source in sources:
            after[source].append(number)
    pairs = tuple(kernels.get(members) for members in groups)
    link = tuple(
        shape.link[members[0] if pair is None else pair.communication]
        for members, pair in zip(groups, pairs, strict=True)
    )
    return Grouping(
        groups=groups,
        pairs=pairs,
        link=link,
        on_compute=tuple(pair is not None or stream == NO_LINK for pair, stream in zip(pairs, link, strict=True)),
        computes=tuple(
            pair is not None or shape.is_compute[members[0]] for members, pair in zip(groups, pairs, strict=True)
        ),
        before=before,
        after=tuple(map(tuple, after)),
    )


def _waits(shape: PassShape, groups: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """By launch, the launches that it waits for."""
    number_of = {index: number for number, members in enumerate(groups) for index in members}
    return tuple(
        tuple(
            dict.fromkeys(
                number_of[source] for index in members for source in shape.before[index] if source not in members
            )
        )
        for members in groups
    )


def _in_order(shape: PassShape, groups: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The launches as close to program order as can be, each after what it waits for: a fused one may have to wait."""
    waits = _waits(shape, groups)
    waiting = list(map(len, waits))
    after: list[list[int]] = [[] for _ in groups]
    for number, sources in enumerate(waits):
        for source in sources:
            after[source].append(number)
    ready = [number for number, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        number = heappop(ready)
        order.append(number)
        for next_ in after[number]:
            waiting[next_] -= 1
            if waiting[next_] == 0:
                heappush(ready, next_)
    return tuple(groups[number] for number in order)


def are_compatible(pairs: tuple[FusedPair, ...]) -> bool:
    """Whether no operator is in two of the pairs."""
    members = [index for pair in pairs for index in pair.members]
    return len(set(members)) == len(members)


def switched(chosen: tuple[FusedPair, ...], pair: FusedPair) -> tuple[FusedPair, ...]:
    """The pair fused if it was not, with what it excludes undone, and the other way round."""
    if pair in chosen:
        return tuple(other for other in chosen if other != pair)
    return (*(other for other in chosen if are_compatible((other, pair))), pair)
