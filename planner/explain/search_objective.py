"""The step as searches compare plans: with operators in the order that list scheduling finds.

Better orders are looked for once a plan is chosen. So lower bounds of a search hold for this step, not for the step of
the plan that comes out, which may be shorter.
"""

from __future__ import annotations

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.step import predict


def search_objective_s(configuration: TrainingConfiguration) -> float:
    """Seconds of a configuration's step in the terms of a search."""
    return predict(msgspec.structs.replace(configuration, orders=OrderBook())).step_time_s
