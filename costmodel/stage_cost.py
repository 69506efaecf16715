"""What each virtual stage of a configuration costs: its layers, with embedding and head on the ends."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import msgspec

from meshwright.costmodel.beside import met, runs_beside
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.data_parallel import StateCost, StateModel
from meshwright.costmodel.expert_load import EVEN, BusiestRank, busiest_rank
from meshwright.costmodel.formulas.experts import expected_imbalance
from meshwright.costmodel.formulas.memory import BF16_BYTES, FP32_BYTES
from meshwright.costmodel.hardware import Basis, ClusterSpec
from meshwright.costmodel.layer_bound import layer_bound
from meshwright.costmodel.layer_cost import LayerCost, Terms, basis_seconds, layer_cost, ordered_passes, reserved_bytes
from meshwright.costmodel.layer_passes import LayerPasses, passes_of
from meshwright.costmodel.model import LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.offload import offloaded_bytes, with_copies, without_offloaded
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.order_book import ModelEnd, OrderBook
from meshwright.costmodel.order.ordered_pass import OrderedPass, serial_timeline
from meshwright.costmodel.order.timeline import LayerTimelines
from meshwright.costmodel.program.embedding import vocabulary_share
from meshwright.costmodel.program.ends import build_embedding, build_head
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import Group
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import AxisOrder, LayerStrategy, Mesh, Recompute, place_over_replicas
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload

DEFAULT = LayerStrategy()


class PartCost(Value, frozen=True, kw_only=True):
    """A layer (or embedding, or head) with its state: what a virtual stage is summed from."""

    compute: LayerCost
    state: StateCost


class CostContext(Value, frozen=True, kw_only=True):
    """What all parts of a model are costed under, apart from their strategies.

    `passes`: what the schedule runs. Operators run in the order of the book, or as list scheduling orders them;
    in the `best_case` a pass takes what no order betters. `reserves`: passing memory is what any order may take, which
    a search sets aside because the operators of what it finds are ordered again, not what these orders take.
    `ends_together`: the first and the last virtual stage lie on one device, which then has one table of the vocabulary.
    """

    model: ModelSpec
    cluster: ClusterSpec
    workload: Workload
    runtime: RuntimeSpec
    state: StateModel
    micro_batch: int
    passes: LayerPasses = LayerPasses.JOINED
    orders: OrderBook = OrderBook()
    best_case: bool = False
    reserves: bool = False
    ends_together: bool = False

    def _imbalance(self, layer: LayerSpec, strategy: LayerStrategy) -> float:
        if not isinstance(layer.ffn, MoeFfnSpec):
            return 1.0
        return expected_imbalance(self.runtime.expert_load_deviation, layer.ffn.num_experts, strategy.ep)

    def _busiest(self, layer: LayerSpec, strategy: LayerStrategy) -> BusiestRank:
        if self.workload.routes_evenly or not isinstance(layer.ffn, MoeFfnSpec):
            return EVEN
        load, capacity = self.workload.known_load, self.workload.capacity
        group = self._expert_group(strategy)
        return busiest_rank(layer.ffn, load, capacity, group.size, group.num_nodes)

    def _expert_group(self, strategy: LayerStrategy) -> Group:
        mesh = self.state.mesh
        return place_over_replicas(
            strategy.ep, strategy.etp, mesh.replica_gpus, mesh.data_stride, self.cluster.gpus_per_node
        )

    def _data_stride(self, strategy: LayerStrategy) -> int:
        """Where experts do not reach over replicas it makes no difference: layers of all meshes then are alike."""
        mesh = self.state.mesh
        reaches = strategy.ep * strategy.etp > strategy.replica_gpus
        return mesh.data_stride if reaches and mesh.order is AxisOrder.DP_OUTERMOST else 0

    def passes_of(self, part: LayerSpec | ModelEnd) -> LayerPasses:
        """The passes that the schedule runs of a part: an end of the model never meets another in a slot."""
        is_end = isinstance(part, ModelEnd) and self.passes is LayerPasses.OVERLAPPED
        return LayerPasses.SPLIT if is_end else self.passes

    def setting(self, layer: LayerSpec, strategy: LayerStrategy) -> ProgramSetting:
        """The surroundings of a layer's program with this strategy."""
        return ProgramSetting(
            hidden=self.model.hidden,
            micro_batch=self.micro_batch,
            seq_len=self.workload.seq_len,
            strategy=strategy,
            gpus_per_node=self.cluster.gpus_per_node,
            precision=self.workload.precision,
            expert_imbalance=max(self.workload.expert_imbalance, self._imbalance(layer, strategy)),
            busiest=self._busiest(layer, strategy),
            fp32_gradients=self.state.accumulates_in_fp32,
            gate_before_fc2=self.runtime.gate_before_fc2,
            gathers_fp8=self.runtime.fp8_tensor_gather,
            gathers_each_product=self.runtime.gathers_each_product,
            data_stride=self._data_stride(strategy),
        )

    def compute(self, part: LayerSpec | ModelEnd, strategy: LayerStrategy) -> LayerCost:
        """Cost of one micro-batch in a layer or an end of the model, apart from its state."""
        program, recompute = self.program(part, strategy), recompute_of(part, strategy)
        if self.best_case:
            cost = layer_bound(program, recompute, self.cluster, self.runtime, self.passes_of(part))
        else:
            order = self.orders.find(part, strategy)
            cost = layer_cost(program, recompute, self.cluster, self.runtime, self.passes_of(part), order)
        if self.reserves:
            reserve = reserved_bytes(program, recompute, self.runtime, self.passes_of(part))
            cost = msgspec.structs.replace(cost, transient_bytes=reserve)
        if strategy.offload and isinstance(part, LayerSpec):
            return without_offloaded(cost, offloaded_bytes(program, recompute))
        return cost

    def ordered(self, layer: LayerSpec | ModelEnd, strategy: LayerStrategy) -> dict[PassKind, OrderedPass]:
        """The passes of a layer or an end of the model, in the order of the book or as list scheduling finds it."""
        program, order = self.program(layer, strategy), self.orders.find(layer, strategy)
        recompute = recompute_of(layer, strategy)
        return ordered_passes(program, recompute, self.cluster, self.runtime, self.passes_of(layer), order)

    def timelines(self, layer: LayerSpec | ModelEnd, strategy: LayerStrategy) -> LayerTimelines:
        """What runs when in each pass of a layer."""
        passes = self.ordered(layer, strategy)
        return LayerTimelines(**{kind.value: ordered.timeline() for kind, ordered in passes.items()})

    def program_order_timelines(self, layer: LayerSpec | ModelEnd, strategy: LayerStrategy) -> LayerTimelines:
        """What would run when if operators ran one after another as the program lists them, none overlapped."""
        passes = self.ordered(layer, strategy)
        return LayerTimelines(**{kind.value: serial_timeline(ordered.problem) for kind, ordered in passes.items()})

    def program(self, part: LayerSpec | ModelEnd, strategy: LayerStrategy) -> LayerProgram:
        """The operators of a layer, of the embedding or of the head."""
        if isinstance(part, LayerSpec):
            program = build_layer(part, self.setting(part, strategy))
            return with_copies(program, strategy.recompute) if strategy.offload else program
        setting = self.setting(self.model.layers[-1], strategy)
        if part is ModelEnd.EMBEDDING:
            return build_embedding(self.model, setting)
        return build_head(
            self.model,
            setting,
            shares_embedding=self.ends_together or self.state.mesh.pp == 1,
            fused_cross_entropy=self.runtime.fused_kernels,
        )

    def sum_of_ends_s(self, strategy: LayerStrategy) -> float:
        """Seconds in which both ends of the pipeline sum gradients of the vocabulary's table, where each has a copy.

        A tied head is one, and prediction modules, which stand behind the head, look tokens up.
        """
        if self.ends_together or not (self.model.tied_embeddings or self.model.mtp_depth):
            return 0.0
        return self.state.sum_of_ends_s(vocabulary_share(self.model, strategy.tp) * self.model.hidden, strategy.tp)

    def loss_bytes(self, strategy: LayerStrategy) -> float:
        """What the loss holds at its peak beside the logits that the head's program has."""
        tokens = self.setting(self.model.layers[-1], strategy).gathered_tokens
        columns = self.model.vocab if self.runtime.gathers_logits else vocabulary_share(self.model, strategy.tp)
        gathered = BF16_BYTES * (columns - vocabulary_share(self.model, strategy.tp))
        return tokens * (gathered + FP32_BYTES * self.runtime.logits_fp32_copies * columns)

    def offloaded_bytes(self, layer: LayerSpec, strategy: LayerStrategy) -> float:
        """Bytes of one layer's micro-batch that wait in host memory."""
        program = self.program(layer, strategy)
        return offloaded_bytes(program, strategy.recompute) if strategy.offload else 0.0

    def basis_seconds(self, layer: LayerSpec, strategy: LayerStrategy) -> dict[Basis, float]:
        """Operator seconds of one layer by what they rest on."""
        program = self.program(layer, strategy)
        return basis_seconds(program, strategy.recompute, self.cluster, self.runtime)

    def layer(self, layer: LayerSpec, strategy: LayerStrategy) -> PartCost:
        """Cost of one layer."""
        return _layer(self, layer, strategy)

    def embedding(self, strategy: LayerStrategy) -> PartCost:
        """Cost of the embedding, whose ranks share tokens as `strategy` says."""
        return _end(self, strategy, ModelEnd.EMBEDDING)

    def head(self, strategy: LayerStrategy) -> PartCost:
        """Cost of final norm, head and loss (and multi-token prediction)."""
        return _end(self, strategy, ModelEnd.HEAD)


def cost_context(configuration: TrainingConfiguration) -> CostContext:
    """The context of a configuration."""
    return CostContext(
        model=configuration.model,
        cluster=configuration.cluster,
        workload=configuration.workload,
        runtime=configuration.runtime,
        state=StateModel(
            cluster=configuration.cluster,
            mesh=configuration.mesh,
            sharding=configuration.sharding,
            runtime=configuration.runtime,
        ),
        micro_batch=configuration.pipeline.micro_batch,
        passes=passes_of(configuration.pipeline.schedule, beside=runs_beside(configuration)),
        orders=configuration.orders,
        ends_together=pipeline_ends_together(configuration.pipeline.schedule),
    )


def pipeline_ends_together(kind: ScheduleKind) -> bool:
    """Whether a schedule has the first and the last virtual stage on one device: those that lead down and up again."""
    return kind in (ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V)


@lru_cache(maxsize=65536)
def _layer(context: CostContext, layer: LayerSpec, strategy: LayerStrategy) -> PartCost:
    cost = context.compute(layer, strategy)
    return PartCost(
        compute=context.state.with_sharded_parameters(cost, strategy),
        state=context.state.cost(cost.weights, strategy, cost),
    )


@lru_cache(maxsize=4096)
def _end(context: CostContext, strategy: LayerStrategy, end: ModelEnd) -> PartCost:
    cost = context.compute(end, strategy)
    loss_bytes = context.loss_bytes(strategy) if end is ModelEnd.HEAD else 0.0
    state = context.state.cost(cost.weights, strategy, cost)
    optimizer_s = state.optimizer_s + context.sum_of_ends_s(strategy)
    return PartCost(
        compute=context.state.with_sharded_parameters(cost, strategy, loss_bytes=loss_bytes),
        state=msgspec.structs.replace(state, optimizer_s=optimizer_s),
    )


def recompute_of(part: LayerSpec | ModelEnd, strategy: LayerStrategy) -> Recompute:
    """The ends of the model recompute nothing."""
    return strategy.recompute if isinstance(part, LayerSpec) else Recompute.NONE


class StageCost(Value, frozen=True, kw_only=True):
    """One virtual stage: seconds of one micro-batch by kind, of its state once a step, and bytes.

    `kept_bytes` is held per micro-batch in flight, `late_bytes` on top of it by one that waits for a weight gradient of
    its own, `transient_bytes` once. `overlap_saving_s` is what a
    forward saves that runs at the same time as a backward of the device's other virtual stage (DualPipe's F&B).
    """

    forward: Terms
    backward: Terms
    dgrad: Terms
    wgrad: Terms
    overlap_saving_s: float
    num_parts: int
    param_gather_s: float
    grad_reduce_s: float
    gather_slowdown_s: float
    reduce_slowdown_s: float
    optimizer_s: float
    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    kept_bytes: float
    late_bytes: float
    transient_bytes: float

    @property
    def static_bytes(self) -> float:
        """Model state."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes


def stage_costs(configuration: TrainingConfiguration) -> tuple[StageCost, ...]:
    """The cost of every virtual stage, in model order."""
    context = cost_context(configuration)
    ends = ends_of(configuration)
    last = len(configuration.stages) - 1
    costs = []
    summed: dict[tuple[tuple[int, int], ...], tuple[StageCost, object]] = {}  # by identity: most stages are alike
    for index in range(len(configuration.stages)):
        parts = [
            (context.layer(layer, strategy), count)
            for (layer, strategy), count in configuration.layers_of(index).items()
        ]
        if index == 0:
            parts.append((context.embedding(ends), 1))
        if index == last:
            parts.append((context.head(ends), 1))
        key = tuple((id(part), count) for part, count in parts)
        if key not in summed:
            summed[key] = _sum_parts(parts), parts
        costs.append(summed[key][0])
    if not runs_beside(configuration):
        return tuple(costs)
    return tuple(
        msgspec.structs.replace(
            cost,
            overlap_saving_s=min(_saving_s(context, configuration, stage), cost.forward.total_s),  # more by rounding
        )
        for stage, cost in enumerate(costs)
    )


def _saving_s(context: CostContext, configuration: TrainingConfiguration, stage: int) -> float:
    """What a virtual stage's forward saves beside the backward of the other one on its device: where layers meet."""
    other = len(configuration.stages) - 1 - stage
    found = Counter(met(configuration.layers_in_order(stage), configuration.layers_in_order(other)))
    return sum(found[key] * context.layer(*key).compute.overlap_saving_s for key in configuration.layers_of(stage))


def end_strategy(mesh: Mesh, last: LayerStrategy = DEFAULT, *, has_modules: bool = False) -> LayerStrategy:
    """How embedding, head and prediction modules are split: like the mesh, their vocabulary over tp.

    `last`: the strategy of the last layer, whose sequence parallelism the ends share, and prediction modules
    (`has_modules`) its exchange.
    """
    exchange = last if has_modules else DEFAULT
    return LayerStrategy(
        tp=mesh.tp,
        sp=mesh.sp,
        cp=mesh.cp,
        ffn_tp=mesh.tp,
        ep=mesh.ep,
        etp=mesh.etp,
        sequence_parallel=last.sequence_parallel,
        dispatch=exchange.dispatch,
        communication=exchange.communication,
    )


def ends_of(configuration: TrainingConfiguration) -> LayerStrategy:
    """The strategy of a configuration's two ends."""
    last = next(stage[-1] for stage in reversed(configuration.stages) if stage)
    return end_strategy(configuration.mesh, last, has_modules=configuration.model.mtp_depth > 0)


def _sum_parts(parts: list[tuple[PartCost, int]]) -> StageCost:
    def terms(name: str) -> Terms:
        total = Terms()
        for part, count in parts:
            total = total + getattr(part.compute, name).scaled(count)
        return total

    def state(name: str) -> float:
        total: float = sum(getattr(part.state, name) * count for part, count in parts)
        return total

    return StageCost(
        forward=terms("forward"),
        backward=terms("backward"),
        dgrad=terms("dgrad"),
        wgrad=terms("wgrad"),
        overlap_saving_s=0.0,
        num_parts=sum(count for _, count in parts),
        param_gather_s=state("param_gather_s"),
        grad_reduce_s=state("grad_reduce_s"),
        gather_slowdown_s=state("gather_slowdown_s"),
        reduce_slowdown_s=state("reduce_slowdown_s"),
        optimizer_s=state("optimizer_s"),
        parameter_bytes=state("parameter_bytes"),
        gradient_bytes=state("gradient_bytes"),
        optimizer_bytes=state("optimizer_bytes"),
        kept_bytes=sum(part.compute.kept_bytes * count for part, count in parts),
        late_bytes=sum(part.compute.late_bytes * count for part, count in parts),
        transient_bytes=max((part.compute.transient_bytes for part, _ in parts), default=0.0),
    )
