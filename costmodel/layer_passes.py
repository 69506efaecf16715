"""The passes of a layer as a pipeline schedule runs them, each with its operators in program order."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import BESIDE, Operator, Pass
from meshwright.costmodel.program.program import LayerProgram, with_prefix
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Recompute


class LayerPasses(StrEnum):
    """Which passes a schedule runs: a joined backward, a split one, or a split one with forwards beside backwards.

    WGRAD is always among them: its seconds say when the gradients of a joined backward begin to be ready. ALL is what
    bounds for all schedules need.
    """

    JOINED = "joined"
    SPLIT = "split"
    OVERLAPPED = "overlapped"
    ALL = "all"

    @property
    def kinds(self) -> tuple[PassKind, ...]:
        """The passes."""
        return _KINDS[self]


_SPLIT = (PassKind.FORWARD, PassKind.DGRAD, PassKind.WGRAD)
_KINDS = {
    LayerPasses.JOINED: (PassKind.FORWARD, PassKind.BACKWARD, PassKind.WGRAD),
    LayerPasses.SPLIT: _SPLIT,
    LayerPasses.OVERLAPPED: (*_SPLIT, PassKind.JOINT),
    LayerPasses.ALL: tuple(PassKind),
}


def passes_of(kind: ScheduleKind, *, beside: bool = True) -> LayerPasses:
    """The passes that a schedule runs; `beside`: its slots of two actions run them at the same time."""
    if kind is ScheduleKind.DUALPIPE_V and beside:
        return LayerPasses.OVERLAPPED
    splits = (ScheduleKind.ZB_H1, ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V)
    return LayerPasses.SPLIT if kind in splits else LayerPasses.JOINED


@lru_cache(maxsize=65536)
def pass_operators(program: LayerProgram, recompute: Recompute, kind: PassKind) -> tuple[Operator, ...]:
    """The operators of one pass, recomputed ones first."""
    if kind is PassKind.FORWARD:
        return program.forward
    backward = (*plan_backward(program, recompute).recomputed, *program.backward)
    if kind is PassKind.BACKWARD:
        return backward
    if kind is PassKind.JOINT:
        return (*with_prefix(program, BESIDE).forward, *backward)
    return tuple(op for op in backward if (op.phase is Pass.WGRAD) is (kind is PassKind.WGRAD))
