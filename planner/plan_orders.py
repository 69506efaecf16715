"""The orders of a configuration as a plan stores them, and back."""

from __future__ import annotations

from itertools import chain, repeat

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import LayerOrder
from meshwright.costmodel.order.order_book import ModelEnd, OrderBook, OrderEntry
from meshwright.costmodel.stage_cost import cost_context, end_strategy
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.planner.operator_order import parts_of
from meshwright.planner.plan import OrderRecord, Plan


def plan_orders(configuration: TrainingConfiguration) -> OrderBook:
    """The orders of all parts: those of the configuration, and what list scheduling finds where it fixes none."""
    context = cost_context(configuration)

    def order_of(part: LayerSpec | ModelEnd, strategy: LayerStrategy) -> LayerOrder:
        ordered = context.ordered(part, strategy)
        return context.orders.find(part, strategy) or LayerOrder(
            **{kind.value: one.order() for kind, one in ordered.items()}
        )

    entries = (
        OrderEntry(part=part, strategy=strategy, order=order_of(part, strategy))
        for part, strategy in parts_of(configuration)
    )
    return OrderBook(entries=tuple(entries))


def order_records(orders: OrderBook) -> tuple[OrderRecord, ...]:
    """The orders as a plan lists them."""
    return tuple(
        OrderRecord(part=entry.part.value if isinstance(entry.part, ModelEnd) else "layer", order=entry.order)
        for entry in orders.entries
    )


def order_book(plan: Plan) -> OrderBook:
    """The orders of a plan by part and strategy. Raises `StrategyError` where a layer group points to none."""
    entries: dict[tuple[LayerSpec | ModelEnd, LayerStrategy], LayerOrder] = {}
    kinds = list(chain.from_iterable(repeat(run.layer, run.count) for run in plan.model.layer_runs))
    for index, group in enumerate(plan.layers):
        if group.order >= len(plan.orders) or plan.orders[group.order].part != "layer":
            raise StrategyError(
                "layers",
                f"[{index}].order",
                f"{group.order} is no order of a layer among the plan's {len(plan.orders)}",
            )
        for layer in dict.fromkeys(kinds[group.first_layer : group.first_layer + group.num_layers]):
            entries[layer, group.strategy] = plan.orders[group.order].order
    layers = tuple(
        OrderEntry(part=layer, strategy=strategy, order=order) for (layer, strategy), order in entries.items()
    )
    return OrderBook(entries=(*_end_orders(plan, ModelEnd.EMBEDDING), *layers, *_end_orders(plan, ModelEnd.HEAD)))


def _end_orders(plan: Plan, end: ModelEnd) -> tuple[OrderEntry, ...]:
    strategy = end_strategy(plan.mesh, plan.layers[-1].strategy, has_modules=plan.model.mtp_depth > 0)
    return tuple(
        OrderEntry(part=end, strategy=strategy, order=record.order)
        for record in plan.orders
        if record.part == end.value
    )
