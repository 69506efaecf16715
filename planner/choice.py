"""The ways to run one layer, as the inner solve sees them: seconds and bytes, with the strategy behind them opaque."""

from __future__ import annotations

import math
from collections.abc import Hashable

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import SPLIT_BACKWARD
from meshwright.costmodel.value import Value


class Choice(Value, frozen=True, kw_only=True):
    """One way to run one layer of one type at one outer point (mesh, micro-batch, schedule).

    `forward_s`, `backward_s` (dgrad and wgrad in one action), `dgrad_s` and `wgrad_s` (apart, for schedules that split
    the backward) are of one micro-batch; gather, reduction, what compute loses beside them, and optimizer of one step.
    `static_bytes` is model state, `kept_bytes` is held per micro-batch in flight, `late_bytes` on top of it by one that
    waits for a weight gradient of its own, `transient_bytes` once a device.
    `overlap_saving_s` is what a forward saves that runs at the same time as a backward.
    """

    key: Hashable
    forward_s: float
    backward_s: float
    dgrad_s: float
    wgrad_s: float
    param_gather_s: float = 0.0
    grad_reduce_s: float = 0.0
    gather_slowdown_s: float = 0.0
    reduce_slowdown_s: float = 0.0
    optimizer_s: float = 0.0
    static_bytes: float = 0.0
    kept_bytes: float = 0.0
    late_bytes: float = 0.0
    transient_bytes: float = 0.0
    overlap_saving_s: float = 0.0

    def __post_init__(self) -> None:
        _check("choice", self)


class EndCost(Value, frozen=True, kw_only=True):
    """Embedding or head: the fields of a choice, paid once on the first or the last virtual stage."""

    forward_s: float = 0.0
    backward_s: float = 0.0
    dgrad_s: float = 0.0
    wgrad_s: float = 0.0
    param_gather_s: float = 0.0
    grad_reduce_s: float = 0.0
    gather_slowdown_s: float = 0.0
    reduce_slowdown_s: float = 0.0
    optimizer_s: float = 0.0
    static_bytes: float = 0.0
    kept_bytes: float = 0.0
    late_bytes: float = 0.0
    transient_bytes: float = 0.0
    overlap_saving_s: float = 0.0

    def __post_init__(self) -> None:
        _check("embedding or head", self)


COST_FIELDS: tuple[str, ...] = EndCost.__struct_fields__
"""The numbers that choices and ends have in common, in one order."""


ONCE_A_STEP = ("param_gather_s", "grad_reduce_s", "gather_slowdown_s", "reduce_slowdown_s", "optimizer_s")
"""The seconds that are not of every micro-batch."""


def costs(part: Choice | EndCost) -> tuple[float, ...]:
    """The part's numbers in the order of `COST_FIELDS`."""
    return tuple(getattr(part, name) for name in COST_FIELDS)


def pareto_choices(choices: tuple[Choice, ...], kind: ScheduleKind) -> tuple[Choice, ...]:
    """The choices that no other equals or beats in all that counts under the schedule; of equal ones the first.

    >>> fast = Choice(key="fast", forward_s=1, backward_s=2, dgrad_s=1, wgrad_s=1, kept_bytes=5)
    >>> lean = Choice(key="lean", forward_s=1, backward_s=3, dgrad_s=2, wgrad_s=1, kept_bytes=1)
    >>> slow = Choice(key="slow", forward_s=2, backward_s=3, dgrad_s=2, wgrad_s=1, kept_bytes=5)
    >>> [choice.key for choice in pareto_choices((slow, fast, lean), ScheduleKind.ONE_F_ONE_B)]
    ['fast', 'lean']
    """
    points = [_dominance_point(choice, kind) for choice in choices]
    return tuple(
        choice
        for index, choice in enumerate(choices)
        if not any(_beats(points, other, index) for other in range(len(choices)))
    )


def _dominance_point(choice: Choice, kind: ScheduleKind) -> tuple[float, ...]:
    """Numbers of which less is never worse.

    A full backward is one number, a split one two. Where a forward overlaps a backward, to save more is better.
    """
    once = tuple(getattr(choice, name) for name in ONCE_A_STEP)
    bytes_ = (choice.static_bytes, choice.kept_bytes, choice.transient_bytes)
    if kind not in SPLIT_BACKWARD:
        return (choice.forward_s, choice.backward_s, *once, *bytes_)
    split = (choice.forward_s, choice.dgrad_s, choice.wgrad_s, *once, *bytes_, choice.late_bytes)
    if kind is not ScheduleKind.DUALPIPE_V:
        return split
    return (*split, -choice.overlap_saving_s)


def _beats(points: list[tuple[float, ...]], other: int, index: int) -> bool:
    if other == index or not all(a <= b for a, b in zip(points[other], points[index], strict=True)):
        return False
    return points[other] != points[index] or other < index


def _check(where: str, part: Choice | EndCost) -> None:
    for name in COST_FIELDS:
        value = getattr(part, name)
        if not (math.isfinite(value) and value >= 0):
            raise StrategyError(where, name, f"{value} is not finite and >= 0")
    if part.overlap_saving_s > part.forward_s:
        problem = f"{part.overlap_saving_s} is more than forward_s {part.forward_s}"
        raise StrategyError(where, "overlap_saving_s", problem)
