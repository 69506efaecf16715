"""A part of the model on one rank: its operators in the plan's order, ready for any number of micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.program.operators import Operator
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.strategy import Recompute
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.order import in_order
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.layer.run import LayerRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDescription:
    """What a part runs. `order` None: program order."""

    title: str
    program: LayerProgram
    context: LayerContext
    recompute: Recompute
    order: LayerOrder | None

    def passes(self) -> dict[PassKind, tuple[Operator, ...]]:
        """The operators of each pass, in the plan's order where it has one."""
        return {kind: self._ordered(kind) for kind in PassKind if kind is not PassKind.JOINT}

    def _ordered(self, kind: PassKind) -> tuple[Operator, ...]:
        """A joined backward that the plan has not ordered runs as its two halves, if the plan has ordered those."""
        order = None if self.order is None else self.order.of(kind)
        if kind is PassKind.BACKWARD and order is None:
            return (*self._ordered(PassKind.DGRAD), *self._ordered(PassKind.WGRAD))
        operators = pass_operators(self.program, self.recompute, kind)
        return operators if order is None else in_order(operators, order)


class Part:
    """A part with its weights. `routes`: its tokens choose experts."""

    def __init__(self, description: PartDescription, parameters: Parameters) -> None:
        self.title = description.title
        self.runner = LayerRunner(description.program, description.context, parameters, description.recompute)
        self.passes = description.passes()
        self.routes = ROUTING in description.program.sizes()
