"""What passing memory the order of a pass takes, and what it may take.

Other orders keep gradients and recomputed tensors alive longer than program order does. A plan reserves a factor on the
peak of program order (of both passes, where a forward runs beside a backward) before any order is known, and no order
may take more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Operator
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import BackwardPlan, plan_backward, transient_bytes
from meshwright.costmodel.strategy import Recompute
from meshwright.costmodel.value import Value

RESERVE = 2.0
"""Passing memory that is reserved for a pass, over its peak in program order: hand-made orders take up to 1.99."""


class OrderMemory(Value, frozen=True, kw_only=True):
    """The passing memory of one pass: `reserved_bytes` whatever the order."""

    program: LayerProgram
    plan: BackwardPlan
    operators: tuple[Operator, ...]
    reserved_bytes: float

    def bytes_of(self, order: Sequence[int]) -> float:
        """Peak of what passes while the operators are launched in this order (indices)."""
        return _bytes_of(self, tuple(order))

    def fits(self, order: Sequence[int]) -> bool:
        """Whether launching the operators in this order (indices) stays within the reserve."""
        return self.bytes_of(order) <= self.reserved_bytes


@lru_cache(maxsize=65536)
def _bytes_of(memory: OrderMemory, order: tuple[int, ...]) -> float:
    return transient_bytes(memory.program, memory.plan, tuple(memory.operators[index] for index in order))


@lru_cache(maxsize=65536)
def order_memory(program: LayerProgram, recompute: Recompute, kind: PassKind) -> OrderMemory:
    """The passing memory of a pass."""
    plan = plan_backward(program, recompute)
    operators = pass_operators(program, recompute, kind)
    return OrderMemory(
        program=program,
        plan=plan,
        operators=operators,
        reserved_bytes=RESERVE * sum(transient_bytes(program, plan, one) for one in _alone(program, recompute, kind)),
    )


def _alone(program: LayerProgram, recompute: Recompute, kind: PassKind) -> tuple[tuple[Operator, ...], ...]:
    """The passes, in program order, whose memory is needed at the same time."""
    kinds = (PassKind.FORWARD, PassKind.BACKWARD) if kind is PassKind.JOINT else (kind,)
    return tuple(pass_operators(program, recompute, one) for one in kinds)
