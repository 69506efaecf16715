"""The order of a part as it is run, where a forward and a backward may share a slot (DualPipe)."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.beside import runs_beside
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.stage_cost import cost_context
from meshwright.costmodel.strategy import LayerStrategy

ROUNDING = 1e-9
"""Relative, of sums of seconds."""


def run_order(
    configuration: TrainingConfiguration, part: LayerSpec | ModelEnd, strategy: LayerStrategy
) -> LayerOrder | None:
    """The plan's order of a part as it is run: with a joint pass only where one is shared, and takes no longer.

    Where it does, the prediction has the two passes one behind the other.
    """
    context = cost_context(configuration)
    order = context.orders.find(part, strategy)
    if order is None or order.joint is None:
        return order
    if runs_beside(configuration):
        cost, joint = context.compute(part, strategy), context.ordered(part, strategy)[PassKind.JOINT]
        apart_s = cost.forward.total_s + cost.dgrad.total_s + cost.wgrad.total_s
        if joint.total_s <= apart_s * (1 + ROUNDING):
            return order
    return msgspec.structs.replace(order, joint=None)
