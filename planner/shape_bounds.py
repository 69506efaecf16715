"""The least time one micro-batch can take through all layers at one shape: what best-first search is ordered by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from meshwright.costmodel.data_parallel import Sharding, StateModel
from meshwright.costmodel.layer_cost import LayerCost
from meshwright.costmodel.layer_passes import LayerPasses
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.order_memory import order_memory
from meshwright.costmodel.program.program import Weights
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.stage_cost import CostContext, end_strategy
from meshwright.costmodel.strategy import LayerStrategy, Mesh, Recompute
from meshwright.costmodel.value import Value
from meshwright.planner.bounds import LayerMinimum, PassTimes, layer_minimum
from meshwright.planner.catalogue import layer_strategies, recompute_policies
from meshwright.planner.space import LayerShape, Problem

ZERO_GRADIENTS = 2
RESIDUAL_BYTES = 2.0


class KindWays(Value, frozen=True, kw_only=True):
    """The layers of one kind, `number` of them: what each strategy costs.

    `held`: the ways that differ in what a rank holds, or in who holds the same.
    """

    layer: LayerSpec
    number: int
    costs: tuple[tuple[LayerStrategy, LayerCost], ...]
    held: tuple[tuple[Weights, LayerStrategy], ...]


class ShapeBound(Value, frozen=True, kw_only=True):
    """What every plan of a shape takes at least: the least times of its layers, in order.

    `end_strategy`: how embedding and head are split, one way that the first layer may be; `end_weights`: what a rank
    has of each. `ways`: per kind of layer its number and costs. `kept_bytes`: the inputs of all layers for one
    micro-batch, which no recomputation drops; `head_bytes`: what the head keeps and passes in its forward.
    """

    layers: tuple[LayerMinimum, ...]
    ends: tuple[LayerMinimum, LayerMinimum]
    end_strategy: LayerStrategy
    end_weights: tuple[Weights, Weights]
    ways: tuple[KindWays, ...]
    kept_bytes: float
    head_bytes: float

    @property
    def split(self) -> tuple[int, int]:
        """(tp, sp) of embedding and head."""
        return self.end_strategy.tp, self.end_strategy.sp

    def with_state(self, model: ModelSpec, state: StateModel) -> tuple[LayerMinimum, ...]:
        """The layers' least times on a mesh: with the least that its collectives of parameters and the update take."""
        minima = dict(zip(model.layers, self.layers, strict=True))
        for kind in self.ways:
            costs = [state.cost(weights, strategy) for weights, strategy in kind.held]
            layer = kind.layer
            if state.sharding.stage >= ZERO_GRADIENTS:
                sharded = [_pass_times(state.with_sharded_parameters(cost, strategy)) for strategy, cost in kind.costs]
                minima[layer] = layer_minimum(sharded)
            minima[layer] = msgspec.structs.replace(
                minima[layer],
                gather_s=min(cost.param_gather_s for cost in costs),
                reduce_s=min(cost.grad_reduce_s for cost in costs),
                optimizer_s=min(cost.optimizer_s for cost in costs),
            )
        return tuple(minima[layer] for layer in model.layers)

    def least_bytes(self, mesh: Mesh, static_bytes: float) -> float:
        """What some device holds at least beside or with so much state: one micro-batch in its layers, or the head."""
        return max(static_bytes + self.kept_bytes / mesh.pp, self.head_bytes)

    def static_bytes(self, state: StateModel) -> float:
        """Model state that some device of the pipeline must hold: the mean over all, every layer at its least."""
        layers = sum(kind.number * min(state.held_bytes(*held) for held in kind.held) for kind in self.ways)
        return (layers + self.end_bytes(state)) / state.mesh.pp

    def end_bytes(self, state: StateModel) -> float:
        """Model state of embedding and head together on a GPU that has both."""
        return sum(state.held_bytes(weights, self.end_strategy) for weights in self.end_weights)


def shape_context(problem: Problem, runtime: RuntimeSpec, shape: LayerShape) -> CostContext:
    """The cost context of a shape with no data parallelism and nothing sharded: what every mesh pays at least."""
    mesh = Mesh(tp=shape.group, cp=shape.cp, dp=max(1, shape.ep * shape.etp))
    return CostContext(
        model=problem.model,
        cluster=problem.cluster,
        workload=problem.workload,
        runtime=runtime,
        state=StateModel(cluster=problem.cluster, mesh=mesh, sharding=Sharding(), runtime=runtime),
        micro_batch=shape.micro_batch,
        passes=LayerPasses.ALL,
        best_case=True,
        reserves=True,
    )


def shape_bounds(problem: Problem, runtime: RuntimeSpec, shape: LayerShape) -> tuple[ShapeBound, ...]:
    """The bounds of a shape, one for each way to split embedding and head; none where some layer has no strategy.

    The first is split as the fastest strategy of the first layer.
    """
    context = shape_context(problem, runtime, shape)
    policies = recompute_policies(problem.fixes)
    policy = Recompute.NONE if Recompute.NONE in policies else policies[0]
    costs = {layer: _costs(problem, context, shape, layer, policy) for layer in problem.model.layer_types}
    if not all(costs.values()):
        return ()
    numbers = Counter(problem.model.layers)
    ways = tuple(
        KindWays(layer=layer, number=numbers[layer], costs=tuple(found.items()), held=_held(found))
        for layer, found in costs.items()
    )
    minima = {layer: layer_minimum([_pass_times(cost) for cost in found.values()]) for layer, found in costs.items()}
    layers = tuple(minima[layer] for layer in problem.model.layers)
    return tuple(
        _shape_bound(problem, context, shape, split, layers, ways)
        for split in _end_splits(costs[problem.model.layers[0]])
    )


def _held(costs: Mapping[LayerStrategy, LayerCost]) -> tuple[tuple[Weights, LayerStrategy], ...]:
    ways = {(cost.weights, strategy.tp, strategy.ffn_tp): strategy for strategy, cost in costs.items()}
    return tuple((weights, strategy) for (weights, _, _), strategy in ways.items())


def _end_splits(costs: Mapping[LayerStrategy, LayerCost]) -> Iterable[tuple[int, int]]:
    """(tp, sp) of a layer's strategies, from the fastest to the slowest."""
    fastest_first = sorted(costs, key=lambda one: costs[one].forward.total_s + costs[one].backward.total_s)
    return dict.fromkeys((strategy.tp, strategy.sp) for strategy in fastest_first)


def _shape_bound(
    problem: Problem,
    context: CostContext,
    shape: LayerShape,
    split: tuple[int, int],
    layers: tuple[LayerMinimum, ...],
    ways: tuple[KindWays, ...],
) -> ShapeBound:
    strategy = _end_strategy(shape, *split, module_exchange(problem, context.runtime, shape))
    embedding, head = context.compute(ModelEnd.EMBEDDING, strategy), context.compute(ModelEnd.HEAD, strategy)
    return ShapeBound(
        layers=layers,
        ends=(layer_minimum([_pass_times(embedding)]), layer_minimum([_pass_times(head)])),
        end_strategy=strategy,
        end_weights=(embedding.weights, head.weights),
        ways=ways,
        kept_bytes=problem.model.num_layers * _input_bytes(problem, shape),
        head_bytes=head.kept_bytes + _forward_bytes(context, strategy),
    )


def _end_strategy(shape: LayerShape, tp: int, sp: int, exchange: LayerStrategy) -> LayerStrategy:
    """How every mesh of the shape splits embedding and head; prediction modules share its experts."""
    experts = shape.ep * shape.etp
    mesh = Mesh(tp=tp, sp=sp, cp=shape.cp, dp=experts, ep=shape.ep, etp=shape.etp)
    return end_strategy(mesh, exchange, has_modules=True)


@lru_cache(maxsize=4096)
def module_exchange(problem: Problem, runtime: RuntimeSpec, shape: LayerShape) -> LayerStrategy:
    """A strategy of the last layer with the exchange that is fastest for prediction modules: what a search takes.

    They exchange as the last layer does, which is of their kind. The default one where there are none.
    """
    if not problem.model.mtp_depth:
        return LayerStrategy()
    context, precision = shape_context(problem, runtime, shape), problem.workload.precision
    gpus_per_node = problem.cluster.gpus_per_node
    ways = layer_strategies(problem.model.layers[-1], shape, problem.fixes, precision, gpus_per_node)

    def seconds(way: LayerStrategy) -> float:
        head = context.compute(ModelEnd.HEAD, _end_strategy(shape, shape.group, 1, way))
        return head.forward.total_s + head.backward.total_s

    unlike = {(way.dispatch, way.communication): way for way in ways}
    return min(unlike.values(), key=seconds, default=LayerStrategy())


def _input_bytes(problem: Problem, shape: LayerShape) -> float:
    """The residual stream of one micro-batch on one rank: the input of each layer."""
    tokens = shape.micro_batch * problem.workload.seq_len / (shape.group * shape.cp)
    return RESIDUAL_BYTES * tokens * problem.model.hidden


def _forward_bytes(context: CostContext, split: LayerStrategy) -> float:
    """What the head passes in its forward, as searches reserve it."""
    program = context.program(ModelEnd.HEAD, split)
    return order_memory(program, Recompute.NONE, PassKind.FORWARD).reserved_bytes


def _costs(
    problem: Problem, context: CostContext, shape: LayerShape, layer: LayerSpec, policy: Recompute
) -> dict[LayerStrategy, LayerCost]:
    precision, node = problem.workload.precision, problem.cluster.gpus_per_node
    strategies = layer_strategies(layer, shape, problem.fixes, precision, node)
    return {strategy: context.compute(layer, _with(strategy, policy)) for strategy in strategies}


def _pass_times(cost: LayerCost) -> PassTimes:
    return PassTimes(
        forward_s=cost.forward.total_s,
        backward_s=cost.backward.total_s,
        dgrad_s=cost.dgrad.total_s,
        wgrad_s=cost.wgrad.total_s,
        overlap_saving_s=cost.overlap_saving_s,
    )


def _with(strategy: LayerStrategy, policy: Recompute) -> LayerStrategy:
    return msgspec.structs.replace(strategy, recompute=policy)
