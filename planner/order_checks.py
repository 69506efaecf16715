"""Whether the orders of a plan are those of its parts, and can be run."""

from __future__ import annotations

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import PlanError, StrategyError
from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import PassKind, PassOrder
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.order.ordered_pass import ordered_pass
from meshwright.costmodel.pass_times import problem_of
from meshwright.costmodel.stage_cost import CostContext, cost_context, recompute_of
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.planner.operator_order.layers import parts_of, stored
from meshwright.planner.plan import Plan


def check_orders(plan: Plan, where: str, configuration: TrainingConfiguration) -> None:
    """Raises `PlanError` with the path of the first order that is missing, too many, or cannot be run.

    Each part has one order with the passes that the schedule runs. `num_sms` is not looked at: the profile may change.
    """
    context = cost_context(configuration)
    numbers = _order_numbers(plan, where)
    for part, strategy in parts_of(configuration):
        number = numbers.get((part, strategy if isinstance(part, LayerSpec) else None))
        if number is None:
            raise PlanError(where, "orders", f"has none of part {part!s}")
        for kind in stored(context.passes_of(part)):
            if plan.orders[number].order.of(kind) is None:
                schedule = configuration.pipeline.schedule
                raise PlanError(where, f"orders[{number}].order.{kind}", f"missing; {schedule} runs it")
        _replay(context, part, strategy, where, f"orders[{number}].order")


def _order_numbers(plan: Plan, where: str) -> dict[tuple[LayerSpec | ModelEnd, LayerStrategy | None], int]:
    """The number of each part's order. Every order is that of some part, and no part has two."""
    numbers: dict[tuple[LayerSpec | ModelEnd, LayerStrategy | None], int] = {}
    for index, record in enumerate(plan.orders):
        if record.part != "layer" and numbers.setdefault((ModelEnd(record.part), None), index) != index:
            raise PlanError(where, f"orders[{index}].part", f"a second order of the {record.part}")
    layers = plan.model.layers
    for index, group in enumerate(plan.layers):
        for layer in layers[group.first_layer : group.first_layer + group.num_layers]:
            number = numbers.setdefault((layer, group.strategy), group.order)
            if number != group.order:
                problem = f"{group.order}, but layers of this kind and strategy run in order {number}"
                raise PlanError(where, f"layers[{index}].order", problem)
    unused = sorted(set(range(len(plan.orders))) - set(numbers.values()))
    if unused:
        raise PlanError(where, f"orders[{unused[0]}]", "no group of layers runs in it")
    return numbers


def _replay(context: CostContext, part: LayerSpec | ModelEnd, strategy: LayerStrategy, where: str, path: str) -> None:
    """Every pass in its order, on the streams of its operators."""
    order = context.orders.find(part, strategy)
    assert order is not None  # every part has one
    program, recompute = context.program(part, strategy), recompute_of(part, strategy)
    for kind in PassKind:
        found = order.of(kind)
        if found is not None:
            problem = problem_of(pass_operators(program, recompute, kind), context.cluster, context.runtime)
            try:
                ordered = ordered_pass(problem, found)
            except StrategyError as error:
                raise PlanError(where, f"{path}.{kind}.{error.field}", error.problem) from error
            _check_streams(found, ordered.order(), where, f"{path}.{kind}")


def _check_streams(found: PassOrder, expected: PassOrder, where: str, path: str) -> None:
    for index, (one, other) in enumerate(zip(found.launches, expected.launches, strict=True)):
        if one.stream is not other.stream:
            raise PlanError(where, f"{path}.launches[{index}].stream", f"{one.stream}, expected {other.stream}")
