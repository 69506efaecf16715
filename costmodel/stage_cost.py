"""What each virtual stage of a configuration costs: its layers, with embedding and head on the ends."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.data_parallel import StateCost, StateModel
from meshwright.costmodel.formulas.experts import expected_imbalance
from meshwright.costmodel.hardware import Basis, ClusterSpec
from meshwright.costmodel.layer_cost import LayerCost, Terms, basis_seconds, layer_cost
from meshwright.costmodel.model import LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.offload import offloaded_bytes, with_offload
from meshwright.costmodel.program.ends import build_embedding, build_head
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import LayerStrategy, Mesh, Recompute
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload


class PartCost(Value, frozen=True, kw_only=True):
    """A layer (or embedding, or head) with its state: what a virtual stage is summed from."""

    compute: LayerCost
    state: StateCost


class CostContext(Value, frozen=True, kw_only=True):
    """What all parts of a model are costed under, apart from their strategies."""

    model: ModelSpec
    cluster: ClusterSpec
    workload: Workload
    runtime: RuntimeSpec
    state: StateModel
    micro_batch: int

    def _imbalance(self, layer: LayerSpec, strategy: LayerStrategy) -> float:
        if not isinstance(layer.ffn, MoeFfnSpec):
            return 1.0
        return expected_imbalance(self.runtime.expert_load_deviation, layer.ffn.num_experts, strategy.ep)

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
            fp32_gradients=self.runtime.fp32_gradients,
            gate_before_fc2=self.runtime.gate_before_fc2,
        )

    def compute(self, layer: LayerSpec, strategy: LayerStrategy) -> LayerCost:
        """Cost of one layer's micro-batch, apart from its state."""
        program = build_layer(layer, self.setting(layer, strategy))
        cost = layer_cost(program, strategy.recompute, self.cluster, self.runtime)
        if strategy.offload:
            return with_offload(cost, offloaded_bytes(program, strategy.recompute), self.cluster)
        return cost

    def offloaded_bytes(self, layer: LayerSpec, strategy: LayerStrategy) -> float:
        """Bytes of one layer's micro-batch that wait in host memory."""
        program = build_layer(layer, self.setting(layer, strategy))
        return offloaded_bytes(program, strategy.recompute) if strategy.offload else 0.0

    def basis_seconds(self, layer: LayerSpec, strategy: LayerStrategy) -> dict[Basis, float]:
        """Operator seconds of one layer by what they rest on."""
        program = build_layer(layer, self.setting(layer, strategy))
        return basis_seconds(program, strategy.recompute, self.cluster, self.runtime)

    def layer(self, layer: LayerSpec, strategy: LayerStrategy) -> PartCost:
        """Cost of one layer."""
        return _layer(self, layer, strategy)

    def embedding(self, strategy: LayerStrategy) -> PartCost:
        """Cost of the embedding, whose ranks share tokens as `strategy` says."""
        return _end(self, strategy, is_head=False)

    def head(self, strategy: LayerStrategy) -> PartCost:
        """Cost of final norm, head and loss (and multi-token prediction)."""
        return _end(self, strategy, is_head=True)


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
    )


@lru_cache(maxsize=65536)
def _layer(context: CostContext, layer: LayerSpec, strategy: LayerStrategy) -> PartCost:
    cost = context.compute(layer, strategy)
    return PartCost(
        compute=context.state.with_sharded_parameters(cost, strategy),
        state=context.state.cost(cost.weights, strategy),
    )


@lru_cache(maxsize=4096)
def _end(context: CostContext, strategy: LayerStrategy, *, is_head: bool) -> PartCost:
    setting = context.setting(context.model.layers[-1], strategy)
    if is_head:
        program = build_head(
            context.model,
            setting,
            shares_embedding=context.state.mesh.pp == 1,
            fused_cross_entropy=context.runtime.fused_kernels,
        )
    else:
        program = build_embedding(context.model, setting)
    cost = layer_cost(program, Recompute.NONE, context.cluster, context.runtime)
    return PartCost(
        compute=context.state.with_sharded_parameters(cost, strategy),
        state=context.state.cost(program.weights, strategy),
    )


class StageCost(Value, frozen=True, kw_only=True):
    """One virtual stage: seconds of one micro-batch by kind, of its state once a step, and bytes.

    `kept_bytes` is held per micro-batch in flight, `transient_bytes` once. `last_layer` and `first_layer` are the
    parts at the ends of the stage, whose share of gathers and reductions cannot overlap.
    """

    forward: Terms
    backward: Terms
    dgrad: Terms
    wgrad: Terms
    num_parts: int
    param_gather_s: float
    grad_reduce_s: float
    optimizer_s: float
    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    kept_bytes: float
    transient_bytes: float

    @property
    def static_bytes(self) -> float:
        """Model state."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes


def stage_costs(configuration: TrainingConfiguration) -> tuple[StageCost, ...]:
    """The cost of every virtual stage, in model order."""
    context = cost_context(configuration)
    ends = end_strategy(configuration.mesh)
    last = len(configuration.stages) - 1
    costs = []
    for index in range(len(configuration.stages)):
        parts = [
            (context.layer(layer, strategy), count)
            for (layer, strategy), count in configuration.layers_of(index).items()
        ]
        if index == 0:
            parts.append((context.embedding(ends), 1))
        if index == last:
            parts.append((context.head(ends), 1))
        costs.append(_sum_parts(parts))
    return tuple(costs)


def end_strategy(mesh: Mesh) -> LayerStrategy:
    """How embedding, head and prediction modules are split: like the mesh, their vocabulary over tp."""
    return LayerStrategy(tp=mesh.tp, sp=mesh.sp, cp=mesh.cp, ffn_tp=mesh.tp, ep=mesh.ep, etp=mesh.etp)


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
        num_parts=sum(count for _, count in parts),
        param_gather_s=state("param_gather_s"),
        grad_reduce_s=state("grad_reduce_s"),
        optimizer_s=state("optimizer_s"),
        parameter_bytes=state("parameter_bytes"),
        gradient_bytes=state("gradient_bytes"),
        optimizer_bytes=state("optimizer_bytes"),
        kept_bytes=sum(part.compute.kept_bytes * count for part, count in parts),
        transient_bytes=max((part.compute.transient_bytes for part, _ in parts), default=0.0),
    )
