"""The orders of operators of a changed configuration: those of the plan where they still are, else solved anew."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.layer_cost import ordered_passes
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import LayerOrder
from meshwright.costmodel.order.order_book import ModelEnd, OrderBook, OrderEntry
from meshwright.costmodel.overlap import LayerOverlap
from meshwright.costmodel.stage_cost import CostContext, cost_context, recompute_of
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.planner.operator_order import layer_order, parts_of, stored


def held_orders(configuration: TrainingConfiguration, overlap_before: LayerOverlap) -> OrderBook:
    """The order of every part of a changed configuration, which still has the orders of the plan.

    A layer keeps the order of the plan's layers of its strategy, also where its sizes or the cluster changed, as long
    as its operators can run in it. A strategy or pass that the plan did not have, an operator that comes or goes, and
    another overlap are solved with the effort of a plan. Where the plan has no orders, none are fixed.
    """
    orders = configuration.orders
    if not orders.entries:
        return orders
    context = cost_context(configuration)
    known = orders if configuration.runtime.overlap == overlap_before else OrderBook()
    unordered = msgspec.structs.replace(context, orders=OrderBook())
    entries = []
    for part, strategy in parts_of(configuration):
        held = next(
            (order for order in _candidates(known, part, strategy) if _runs(context, part, strategy, order)), None
        )
        order = layer_order(unordered, part, strategy) if held is None else held
        entries.append(OrderEntry(part=part, strategy=strategy, order=order))
    return orders if tuple(entries) == orders.entries else OrderBook(entries=tuple(entries))


def num_solved_anew(before: OrderBook, after: OrderBook) -> int:
    """Parts whose order is none of those before."""
    known = {entry.order for entry in before.entries}
    return sum(entry.order not in known for entry in after.entries)


def _candidates(book: OrderBook, part: LayerSpec | ModelEnd, strategy: LayerStrategy) -> Iterator[LayerOrder]:
    """The part's own order, then those of other layers of the strategy."""
    own = book.find(part, strategy)
    if own is not None:
        yield own
    if isinstance(part, LayerSpec):
        for entry in book.entries:
            if entry.strategy == strategy and isinstance(entry.part, LayerSpec) and entry.order is not own:
                yield entry.order


def _runs(context: CostContext, part: LayerSpec | ModelEnd, strategy: LayerStrategy, order: LayerOrder) -> bool:
    """Whether the order has all passes and the part's operators can be launched in it."""
    if any(order.of(kind) is None for kind in stored(context.passes_of(part))):
        return False
    program, recompute = context.program(part, strategy), recompute_of(part, strategy)
    try:
        ordered_passes(program, recompute, context.cluster, context.runtime, context.passes_of(part), order)
    except StrategyError:
        return False
    return True
