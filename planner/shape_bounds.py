"""The least time one micro-batch can take through all layers at one shape: what best-first search is ordered by."""

from __future__ import annotations

from collections import Counter

import msgspec

from meshwright.costmodel.data_parallel import Sharding, StateModel
from meshwright.costmodel.formulas.memory import gradient_bytes, optimizer_bytes, parameter_bytes
from meshwright.costmodel.layer_cost import LayerCost
from meshwright.costmodel.layer_passes import LayerPasses
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.order_memory import order_memory
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.stage_cost import CostContext, end_strategy
from meshwright.costmodel.strategy import LayerStrategy, Mesh, Recompute
from meshwright.costmodel.value import Value
from meshwright.planner.bounds import LayerMinimum, PassTimes, layer_minimum
from meshwright.planner.catalogue import layer_strategies, recompute_policies
from meshwright.planner.space import LayerShape, Problem

ZERO_GRADIENTS = 2
RESIDUAL_BYTES = 2.0


class ShapeBound(Value, frozen=True, kw_only=True):
    """What every plan of a shape takes at least: the least times of its layers, in order.

    `split` is the (tp, sp) of embedding and head, one that the first layer may have.
    `dense_parameters` and `expert_parameters`: what the ranks of one stage would hold at least, had it all layers;
    `end_parameters`: what one rank holds of the larger of the two ends;
    `kept_bytes`: the inputs of all its layers for one micro-batch, which no recomputation drops; `head_bytes`: what the
    head keeps and passes in its forward.
    """

    layers: tuple[LayerMinimum, ...]
    ends: tuple[LayerMinimum, LayerMinimum]
    split: tuple[int, int]
    ways: tuple[tuple[LayerSpec, tuple[tuple[LayerStrategy, LayerCost], ...]], ...]
    dense_parameters: float
    expert_parameters: float
    end_parameters: float
    kept_bytes: float
    head_bytes: float

    def with_state(self, model: ModelSpec, state: StateModel) -> tuple[LayerMinimum, ...]:
        """The layers' least times on a mesh: with the least that its collectives of parameters and the update take."""
        minima = dict(zip(model.layers, self.layers, strict=True))
        for layer, ways in self.ways:
            costs = [state.cost(cost.weights, strategy) for strategy, cost in ways]
            if state.sharding.stage >= ZERO_GRADIENTS:
                sharded = [_pass_times(state.with_sharded_parameters(cost, strategy)) for strategy, cost in ways]
                minima[layer] = layer_minimum(sharded)
            minima[layer] = msgspec.structs.replace(
                minima[layer],
                gather_s=min(cost.param_gather_s for cost in costs),
                reduce_s=min(cost.grad_reduce_s for cost in costs),
                optimizer_s=min(cost.optimizer_s for cost in costs),
            )
        return tuple(minima[layer] for layer in model.layers)

    def optimizer_bytes(self, mesh: Mesh, zero_stage: int, runtime: RuntimeSpec) -> float:
        """Optimizer state of a GPU, the mean over the stages, wherever it lives."""
        held = ((self.dense_parameters, mesh.stage_gpus), (self.expert_parameters, mesh.edp))
        each = runtime.optimizer_state_bytes
        return sum(optimizer_bytes(count, zero_stage, shards, each) for count, shards in held) / mesh.pp

    def least_bytes(self, mesh: Mesh, static_bytes: float) -> float:
        """What some device holds at least beside or with so much state: one micro-batch in its layers, or the head."""
        return max(static_bytes + self.kept_bytes / mesh.pp, self.head_bytes)

    def static_bytes(self, mesh: Mesh, sharding: Sharding, runtime: RuntimeSpec) -> float:
        """Model state that some device of a pipeline of `mesh.pp` stages must hold: the mean over its devices."""
        zero_stage = sharding.stage
        on_gpu = 0.0 if sharding.offload_optimizer else self.optimizer_bytes(mesh, zero_stage, runtime)
        held = ((self.dense_parameters, mesh.stage_gpus), (self.expert_parameters, mesh.edp))
        others = sum(_weight_bytes(count, zero_stage, shards, runtime) for count, shards in held)
        return on_gpu + others / mesh.pp

    def end_bytes(self, mesh: Mesh, sharding: Sharding, runtime: RuntimeSpec) -> float:
        """Model state on the GPU of the larger of embedding and head."""
        held, shards, each = self.end_parameters, mesh.stage_gpus, runtime.optimizer_state_bytes
        on_gpu = 0.0 if sharding.offload_optimizer else optimizer_bytes(held, sharding.stage, shards, each)
        return on_gpu + _weight_bytes(held, sharding.stage, shards, runtime)


def _weight_bytes(count: float, zero_stage: int, shards: int, runtime: RuntimeSpec) -> float:
    gradients = gradient_bytes(count, zero_stage, shards, fp32=runtime.fp32_gradients)
    return parameter_bytes(count, zero_stage, shards) + gradients


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
    minima = {layer: layer_minimum([_pass_times(cost) for cost in ways.values()]) for layer, ways in costs.items()}
    non_expert = {layer: min(cost.weights.non_expert for cost in ways.values()) for layer, ways in costs.items()}
    expert = {layer: min(cost.weights.expert for cost in ways.values()) for layer, ways in costs.items()}
    first = costs[problem.model.layers[0]]
    fastest_first = sorted(
        first, key=lambda strategy: first[strategy].forward.total_s + first[strategy].backward.total_s
    )
    bounds = []
    for tp, sp in dict.fromkeys((strategy.tp, strategy.sp) for strategy in fastest_first):
        split = _end_split(shape, tp, sp)
        embedding, head = context.compute(ModelEnd.EMBEDDING, split), context.compute(ModelEnd.HEAD, split)
        ends = embedding.weights.non_expert + head.weights.non_expert
        bounds.append(
            ShapeBound(
                layers=tuple(minima[layer] for layer in problem.model.layers),
                ends=(layer_minimum([_pass_times(embedding)]), layer_minimum([_pass_times(head)])),
                split=(tp, sp),
                ways=tuple((layer, tuple(ways.items())) for layer, ways in costs.items()),
                dense_parameters=ends + sum(number * non_expert[layer] for layer, number in numbers.items()),
                expert_parameters=sum(number * expert[layer] for layer, number in numbers.items()),
                end_parameters=max(embedding.weights.non_expert, head.weights.non_expert),
                kept_bytes=problem.model.num_layers * _input_bytes(problem, shape),
                head_bytes=head.kept_bytes + _forward_bytes(context, split),
            )
        )
    return tuple(bounds)


def _end_split(shape: LayerShape, tp: int, sp: int) -> LayerStrategy:
    """How every mesh of the shape splits embedding and head; prediction modules share its experts."""
    experts = shape.ep * shape.etp
    mesh = Mesh(tp=tp, sp=sp, cp=shape.cp, dp=experts, ep=shape.ep, etp=shape.etp)
    return end_strategy(mesh)


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
    strategies = layer_strategies(layer, shape, problem.fixes, precision, node, context.runtime)
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
