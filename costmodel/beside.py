"""Forwards beside backwards (DualPipeV): which plans run them so, and which layers meet.

A slot of two actions goes through the parts of one chunk forwards and through those of the other backwards. Parts of
one kind and strategy can meet: their operators then are one pass. All others run alone in between, the ends among them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import TypeAlias, TypeVar

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import ZeroStage

Turn: TypeAlias = tuple[bool, bool]
"""Whether the forward takes its next part, and whether the backward does: together in one pass if both."""

Part = TypeVar("Part")


def may_run_beside(sharding: Sharding, *, offloads: bool) -> bool:
    """Whether passes can share a slot with this state, where a schedule wants it.

    Not under ZeRO-2 and 3, which have room for two parts of the model: the one at work and the next. Nor where layers'
    activations wait in host memory: copies go from layer to layer of one pass.
    """
    return sharding.zero in (ZeroStage.NONE, ZeroStage.OPTIMIZER) and not offloads


def runs_beside(configuration: TrainingConfiguration) -> bool:
    """Whether slots of two actions run them beside one another."""
    offloads = any(strategy.offload for stage in configuration.stages for strategy in stage)
    is_planned = configuration.pipeline.schedule is ScheduleKind.DUALPIPE_V
    return is_planned and may_run_beside(configuration.sharding, offloads=offloads)


def turns_of(forward: Sequence[Part], backward: Sequence[Part], meet: Callable[[Part, Part], bool]) -> tuple[Turn, ...]:
    """In which turns two orders of parts go on, so that most of them meet: a longest common subsequence.

    Every part of both is taken in one turn, in its order.
    """
    alike = [[meet(one, other) for other in backward] for one in forward]
    longest = [[0] * (len(backward) + 1) for _ in range(len(forward) + 1)]
    for i in reversed(range(len(forward))):
        for j in reversed(range(len(backward))):
            apart = max(longest[i + 1][j], longest[i][j + 1])
            longest[i][j] = max(apart, 1 + longest[i + 1][j + 1]) if alike[i][j] else apart
    found, i, j = [], 0, 0
    while i < len(forward) or j < len(backward):
        if i < len(forward) and j < len(backward) and alike[i][j] and longest[i][j] == 1 + longest[i + 1][j + 1]:
            turn = (True, True)
        else:
            is_forward = j == len(backward) or (i < len(forward) and longest[i + 1][j] >= longest[i][j + 1])
            turn = (is_forward, not is_forward)
        found.append(turn)
        i, j = i + turn[0], j + turn[1]
    return tuple(found)


@lru_cache(maxsize=4096)
def met(forward: tuple[Hashable, ...], backward: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    """The layers of a chunk whose forward meets the backward of an equal one in the other chunk."""
    order = turns_of(forward, tuple(reversed(backward)), lambda one, other: one == other)
    beside_backward = [is_backward for is_forward, is_backward in order if is_forward]
    return tuple(layer for layer, meets in zip(forward, beside_backward, strict=True) if meets)
