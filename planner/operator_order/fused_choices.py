"""The choices of fused kernels in a pass, each with a bound of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.fusion import FusedPair
from meshwright.costmodel.order.grouping import are_compatible, grouping_of, switched, with_fused
from meshwright.costmodel.order.pass_problem import PassProblem

MOST_CHOICES = 64
"""More choices than this are not looked at one by one: only those one step from the best order known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedChoice:
    """Pairs that are fused, every other communication not; no order with exactly these is faster than the bound."""

    pairs: tuple[FusedPair, ...]
    bound_s: float


def fused_choices(problem: PassProblem, around: tuple[FusedPair, ...]) -> tuple[list[FusedChoice], bool]:
    """Sets of compatible pairs, the least bound first, and whether they are all there are.

    Where there are too many: the pairs `around` and what is reached from them by switching one.
    """
    subsets = list(islice(_subsets(problem.pairs), MOST_CHOICES + 1))
    is_complete = len(subsets) <= MOST_CHOICES
    if not is_complete:
        subsets = list(dict.fromkeys((around, *(switched(around, pair) for pair in problem.pairs))))
    choices = [
        FusedChoice(pairs=pairs, bound_s=pass_bound_s(with_fused(problem, grouping_of(problem, pairs))))
        for pairs in subsets
    ]
    return sorted(choices, key=lambda choice: choice.bound_s), is_complete


def _subsets(pairs: tuple[FusedPair, ...]) -> Iterator[tuple[FusedPair, ...]]:
    if not pairs:
        yield ()
        return
    first, rest = pairs[0], pairs[1:]
    yield from _subsets(rest)
    for others in _subsets(tuple(pair for pair in rest if are_compatible((first, pair)))):
        yield (first, *others)
