"""How long a tensor lives: until its last reader has run; over the end of the forward only if the plan keeps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from meshwright.costmodel.program.operators import GRADIENT, Operator, Pass
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.strategy import Recompute

INPUT = "hidden"


class Lifetimes:
    """The readers that tensors of one micro-batch still have, in the forward and behind it."""

    def __init__(self, program: LayerProgram, recompute: Recompute) -> None:
        plan = plan_backward(program, recompute)
        self._kept = plan.kept
        self._recomputed = frozenset(name for op in plan.recomputed for name in op.writes)
        self._forward = _readers(program.forward)
        self._backward = _readers((*plan.recomputed, *program.backward))
        self._results = frozenset((program.output, GRADIENT + INPUT))

    def end_of(self, operator: Operator) -> list[str]:
        """Note that an operator has run; the tensors that nobody needs any more, or not before they are run again."""
        in_forward = operator.phase is Pass.FORWARD and not operator.recomputes
        (self._forward if in_forward else self._backward).subtract(operator.reads)
        return [name for name in (*operator.reads, *operator.writes) if self._is_over(name, in_forward)]

    def _is_over(self, name: str, in_forward: bool) -> bool:
        if name in self._results or self._forward[name] > 0:
            return False
        comes_again = in_forward and name in self._recomputed and name not in self._kept
        return comes_again or self._backward[name] <= 0


def _readers(operators: Iterable[Operator]) -> Counter[str]:
    return Counter(name for op in operators for name in op.reads)
