"""The orders of all parts of a configuration: what a plan stores and its executor runs."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.hardware import SmShare
from meshwright.costmodel.layer_passes import LayerPasses, pass_operators
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind, PassOrder
from meshwright.costmodel.order.order_book import ModelEnd, OrderBook, OrderEntry
from meshwright.costmodel.order.pass_problem import NO_LINK, PassProblem
from meshwright.costmodel.order_memory import order_memory
from meshwright.costmodel.pass_times import problem_of, sm_shares
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.stage_cost import CostContext, cost_context, ends_of, recompute_of
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.planner.operator_order.solve import solve_pass

NUM_NODES = 1_500
NUM_REPLAYS = 250
"""Effort a pass when a plan is made: about a tenth of a second."""


def ordered_configuration(configuration: TrainingConfiguration) -> TrainingConfiguration:
    """The configuration with every pass of every part in the best order found."""
    context = msgspec.structs.replace(cost_context(configuration), orders=OrderBook())
    entries = (
        OrderEntry(part=part, strategy=strategy, order=layer_order(context, part, strategy))
        for part, strategy in parts_of(configuration)
    )
    return msgspec.structs.replace(configuration, orders=OrderBook(entries=tuple(entries)))


def parts_of(configuration: TrainingConfiguration) -> tuple[tuple[LayerSpec | ModelEnd, LayerStrategy], ...]:
    """The kinds of layers with their strategies, in the order in which they first appear, between the model's ends."""
    ends = ends_of(configuration)
    layers = zip(configuration.model.layers, chain.from_iterable(configuration.stages), strict=True)
    return ((ModelEnd.EMBEDDING, ends), *dict.fromkeys(layers), (ModelEnd.HEAD, ends))


def layer_order(context: CostContext, part: LayerSpec | ModelEnd, strategy: LayerStrategy) -> LayerOrder:
    """The best order found of a part, whatever the context's own orders."""
    orders = {kind: _pass_order(context, part, strategy, kind) for kind in stored(context.passes_of(part))}
    return LayerOrder(**{kind.value: order for kind, order in orders.items()})


def stored(passes: LayerPasses) -> tuple[PassKind, ...]:
    """The passes that an order has: a joined backward has its wgrad inside."""
    if passes is LayerPasses.JOINED:
        return PassKind.FORWARD, PassKind.BACKWARD
    return passes.kinds


def _pass_order(context: CostContext, part: LayerSpec | ModelEnd, strategy: LayerStrategy, kind: PassKind) -> PassOrder:
    program, recompute = context.program(part, strategy), recompute_of(part, strategy)
    problem = problem_of(pass_operators(program, recompute, kind), context.cluster, context.runtime)
    memory = order_memory(program, recompute, kind)
    best = solve_pass(problem, memory.fits, num_nodes=NUM_NODES, num_replays=NUM_REPLAYS)
    least_s = best.lower_bound_s
    for share in _shares(problem, context):
        other = problem_of(problem.operators, context.cluster, context.runtime, share)
        if pass_bound_s(other) < best.ordered.total_s:
            solved = solve_pass(other, memory.fits, num_nodes=NUM_NODES, num_replays=NUM_REPLAYS)
            least_s = min(least_s, solved.lower_bound_s)
            best = min(best, solved, key=lambda one: one.ordered.total_s)
    total_s = best.ordered.total_s
    return best.ordered.order(gap=max(0.0, 1.0 - least_s / total_s) if total_s else 0.0)


def _shares(problem: PassProblem, context: CostContext) -> tuple[SmShare, ...]:
    """Other shares of the SMs that the pass's collectives inside a node may take."""
    has_some = any(
        op.resource is Resource.NVLINK and link != NO_LINK
        for op, link in zip(problem.operators, problem.link, strict=True)
    )
    return sm_shares(context.cluster, context.runtime) if has_some else ()


def order_gap(configuration: TrainingConfiguration) -> float:
    """The most by which better orders could shorten the layers of a configuration, as a share of their time."""
    context = cost_context(configuration)
    seconds = slack_s = 0.0
    numbers = Counter(zip(configuration.model.layers, chain.from_iterable(configuration.stages), strict=True))
    for (layer, strategy), count in numbers.items():
        order = context.orders.find(layer, strategy)
        for kind, ordered in context.ordered(layer, strategy).items():
            found = order.of(kind) if order is not None else None
            if kind is not PassKind.WGRAD and found is not None:
                seconds += count * ordered.total_s
                slack_s += count * ordered.total_s * found.gap
    return slack_s / seconds if seconds else 0.0
