"""What a layer's parameters cost beside its micro-batches: state in memory, data-parallel collectives, update."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

import msgspec

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.formulas import memory
from meshwright.costmodel.formulas.interference import between_nodes
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.layer_cost import LayerCost, Terms
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.pcie import network_share_of_pcie
from meshwright.costmodel.program.operators import (
    Collective,
    CollectiveWork,
    Group,
    MemoryKernel,
    MemoryWork,
    Resource,
)
from meshwright.costmodel.program.program import Weights
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import LayerStrategy, Mesh, ZeroStage, place_over_replicas
from meshwright.costmodel.value import Value


class Sharding(Value, frozen=True, kw_only=True):
    """How model state is spread over data-parallel ranks.

    `offload_optimizer`: master weights and moments live in host memory, where the CPU updates them (ZeRO-Offload).
    `zero`: what is sharded. `shard_degree`: over how many of the dp x cp x sp ranks (0: all), the rest hold copies
    (HSDP); experts, of which these have fewer copies, are sharded within the same ranks.
    """

    zero: ZeroStage = ZeroStage.OPTIMIZER
    shard_degree: int = 0
    offload_optimizer: bool = False

    def __post_init__(self) -> None:
        if self.shard_degree < 0:
            raise StrategyError("sharding", "shard_degree", f"{self.shard_degree} is negative")

    @property
    def stage(self) -> int:
        """ZeRO's number."""
        return int(self.zero.value)


class StateCost(Value, frozen=True, kw_only=True):
    """Model state of one layer on one rank, once a step: seconds of its collectives and update, bytes by kind.

    `gather_slowdown_s`, `reduce_slowdown_s`: what computation loses beside the collectives that it hides.
    `optimizer_s`: what follows the last reduction; at the ends of a pipeline a sum of gradients, too (`sum_of_ends_s`).
    """

    param_gather_s: float
    grad_reduce_s: float
    gather_slowdown_s: float = 0.0
    reduce_slowdown_s: float = 0.0
    optimizer_s: float
    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float

    @property
    def static_bytes(self) -> float:
        """All bytes held throughout the step."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes


def copies_group(mesh: Mesh, split: int, gpus_per_node: int) -> Group:
    """Ranks of a pipeline stage that hold copies of the same parameters, when `split` neighbours share one copy."""
    size = mesh.stage_gpus // split
    return place_over_replicas(size, split, mesh.replica_gpus, mesh.data_stride, gpus_per_node)


def num_shards(mesh: Mesh, sharding: Sharding, copies: int) -> int:
    """Shards of parameters of which a stage has so many copies, where the state as a whole has replicas.

    >>> hybrid = Sharding(shard_degree=4)
    >>> num_shards(Mesh(dp=16, ep=2), hybrid, 16), num_shards(Mesh(dp=16, ep=2), hybrid, 8)
    (4, 2)

    Source: Megatron-Core's `intra_partial_expert_data_parallel_size`; torchtitan's `dp_shard_mod_ep`.
    """
    ranks = mesh.dp * mesh.cp * mesh.sp
    replicas = ranks // gcd(ranks, sharding.shard_degree)
    return copies // gcd(copies, replicas)


class StateModel(Value, frozen=True, kw_only=True):
    """Costs the state of layers on one cluster, mesh, sharding and runtime."""

    cluster: ClusterSpec
    mesh: Mesh
    sharding: Sharding
    runtime: RuntimeSpec

    def cost(self, weights: Weights, strategy: LayerStrategy, beside: LayerCost | None = None) -> StateCost:
        """State of a layer with these weights on a rank.

        `beside`: the cost of its passes, of which collectives that they hide take a part; None: what they lose is 0.
        """
        parts = [self._part(count, group) for count, group in self._held(weights, strategy)]
        summed = {name: sum(getattr(part, name) for part in parts) for name in StateCost.__struct_fields__}
        if self.mesh.num_gpus > 1:
            summed["optimizer_s"] += self.runtime.step_host_s_per_layer
        if beside is not None:
            summed["gather_slowdown_s"] = self._gather_slowdown_s(weights, strategy, beside.forward.total_s)
            summed["reduce_slowdown_s"] = self._reduce_slowdown_s(weights, strategy, beside.whole_backward_s)
        return StateCost(**summed)

    def held_bytes(self, weights: Weights, strategy: LayerStrategy) -> float:
        """All that a GPU holds of a layer throughout the step: `static_bytes` of its cost."""
        held = [(count, self._num_shards(group)) for count, group in self._held(weights, strategy)]
        return sum(
            memory.parameter_bytes(count, self.sharding.stage, shards)
            + self.gradient_bytes(count, shards)
            + self.optimizer_bytes(count, shards)
            for count, shards in held
        )

    def _held(self, weights: Weights, strategy: LayerStrategy) -> list[tuple[float, Group]]:
        """Parameters by the group of ranks that hold copies of them."""
        splits = (
            (weights.dense, strategy.tp),
            (weights.ffn, strategy.ffn_tp),
            (weights.expert, strategy.ep * strategy.etp),
        )
        gpus_per_node = self.cluster.gpus_per_node
        return [(count, copies_group(self.mesh, split, gpus_per_node)) for count, split in splits if count]

    def _part(self, count: float, group: Group) -> StateCost:
        stage, shards = self.sharding.stage, self._num_shards(group)
        return StateCost(
            param_gather_s=self._gather_s(count, group) if self.gathers_once else 0.0,
            grad_reduce_s=self._reduce_s(count, group) if self.reduces_once else 0.0,
            optimizer_s=self.update_s(count, shards),
            parameter_bytes=memory.parameter_bytes(count, stage, shards),
            gradient_bytes=self.gradient_bytes(count, shards),
            optimizer_bytes=self.optimizer_bytes(count, shards),
        )

    @property
    def gathers_once(self) -> bool:
        """Whether parameters are gathered once a step, not for every pass."""
        return self.sharding.stage < 3

    @property
    def reduces_once(self) -> bool:
        """Whether gradients are reduced once a step, not after every backward."""
        return self.sharding.stage < 2 or self.accumulates

    @property
    def accumulates(self) -> bool:
        """Whether gradients are sharded, but only after all micro-batches."""
        return self.sharding.stage >= 2 and self.runtime.accumulates_unsharded

    def gradient_bytes(self, count: float, shards: int) -> float:
        """Accumulated gradients of so many parameters on a rank."""
        stage = min(self.sharding.stage, 1) if self.accumulates else self.sharding.stage
        return memory.gradient_bytes(count, stage, shards, fp32=self.holds_fp32_gradients)

    @property
    def holds_fp32_gradients(self) -> bool:
        """Whether the accumulated gradients are FP32."""
        of_whole = self.runtime.fp32_gradients_of_whole and self.sharding.zero is not ZeroStage.PARAMETERS
        return self.runtime.fp32_gradients or of_whole

    @property
    def accumulates_in_fp32(self) -> bool:
        """Whether weight gradients are added to FP32 buffers as they are computed."""
        return self.runtime.fp32_gradients or (self.holds_fp32_gradients and self.mesh.pp > 1)

    def optimizer_bytes(self, count: float, shards: int) -> float:
        """Optimizer state of so many parameters on a rank; none where it lives in host memory."""
        if self.sharding.offload_optimizer:
            return 0.0
        return memory.optimizer_bytes(count, self.sharding.stage, shards, self.runtime.optimizer_state_bytes)

    def _num_shards(self, group: Group) -> int:
        return num_shards(self.mesh, self.sharding, group.size)

    def _shard_group(self, group: Group) -> Group:
        shards = self._num_shards(group)
        return Group(size=shards, ranks_per_node=gcd(shards, group.ranks_per_node))

    def _replica_group(self, group: Group) -> Group:
        shards = self._shard_group(group)
        inside = max(1, group.ranks_per_node // shards.ranks_per_node)
        return Group(size=group.size // shards.size, ranks_per_node=gcd(group.size // shards.size, inside))

    def _collective_s(self, kind: Collective, num_bytes: float, group: Group) -> float:
        if group.size == 1 or num_bytes == 0:
            return 0.0
        return operator_timing(CollectiveWork(collective=kind, num_bytes=num_bytes, group=group), self.cluster).time_s

    def _gather_s(self, count: float, group: Group) -> float:
        if self.sharding.stage == 0:
            return 0.0
        num_bytes = count * self.runtime.parameter_gather_bytes
        return self._collective_s(Collective.ALL_GATHER, num_bytes, self._shard_group(group))

    def _reduce_s(self, count: float, group: Group) -> float:
        return self._reduce_collectives_s(count, group) + self._reduce_passes_s(count, group)

    def _reduce_collectives_s(self, count: float, group: Group) -> float:
        if self.sharding.stage == 0:
            return self._all_reduce_s(count, group)
        shards = self._shard_group(group)
        kind = Collective.ALL_TO_ALL if self.exchanges else Collective.REDUCE_SCATTER
        scatter_s = self._collective_s(kind, count * self.runtime.gradient_reduce_bytes, shards)
        return scatter_s + self._all_reduce_s(count / shards.size, self._replica_group(group))

    def _all_reduce_s(self, count: float, group: Group) -> float:
        """Of so many gradients; where they are exchanged, the sums travel back by all-gather."""
        num_bytes = count * self.runtime.gradient_reduce_bytes
        if not self.exchanges:
            return self._collective_s(Collective.ALL_REDUCE, num_bytes, group)
        exchange_s = self._collective_s(Collective.ALL_TO_ALL, num_bytes, group)
        return exchange_s + self._collective_s(Collective.ALL_GATHER, num_bytes, group)

    def _reduce_passes_s(self, count: float, group: Group) -> float:
        """Kernels before and behind exchanges; none where nobody else has the gradients."""
        if not self.exchanges:
            return 0.0
        if self.sharding.stage == 0:
            return self.exchange_back_s(count, group.size)
        shards, replicas = self._num_shards(group), self._replica_group(group).size
        return self.exchange_local_s(count, shards) + self.exchange_back_s(count / shards, replicas)

    def _gather_slowdown_s(self, weights: Weights, strategy: LayerStrategy, room_s: float) -> float:
        if not (self.gathers_once and self.runtime.overlap_parameter_gather):
            return 0.0
        return self._lost_s(self._by_link(weights, strategy, self._gather_s), room_s)

    def _reduce_slowdown_s(self, weights: Weights, strategy: LayerStrategy, room_s: float) -> float:
        """Kernels around an exchange take from computation all the time that they last beside it."""
        if not (self.reduces_once and self.runtime.overlap_gradient_reduce):
            return 0.0
        lost_s = self._lost_s(self._by_link(weights, strategy, self._reduce_collectives_s), room_s)
        passes_s = sum(self._reduce_passes_s(count, group) for count, group in self._held(weights, strategy))
        return lost_s + min(passes_s, room_s)

    def _lost_s(self, links: dict[Resource, LinkSeconds], room_s: float) -> float:
        """Seconds that computation of `room_s` loses beside collectives, at most what all of it can be slowed by.

        Equation: lost = min(sum of t b (1 - 1 / a), room (a_m - 1)), with t the seconds of a collective alone, a the
        slowdown of compute and b that of the collective; a_m is the largest a of all links, so that slower ones never
        lose less.
        Source: of the b t seconds in which both run, compute is a times as slow; a and b are measured (profile).
        """
        lost_s = 0.0
        for resource, seconds in links.items():
            compute_slowdown, window_per_s = self._slowdowns(resource, seconds)
            lost_s += seconds.time_s * (window_per_s - window_per_s / compute_slowdown)
        interference = self.cluster.profile.interference
        most = max(interference.compute_slowdown, interference.network_compute_slowdown)
        return min(lost_s, room_s * (most - 1.0))

    @property
    def exchanges(self) -> bool:
        """Whether gradients are reduced by an all-to-all and a sum of what arrives."""
        runtime = self.runtime
        return runtime.reduces_by_all_to_all and runtime.gradient_reduce_bytes == memory.BF16_BYTES

    def exchange_local_s(self, count: float, shards: int) -> float:
        """Seconds of rounding gradients before an exchange, and of summing behind it."""
        if shards == 1:
            return 0.0
        read, written = memory.exchange_traffic_bytes(count, shards, fp32=self.runtime.fp32_gradients)
        return self._memory_s(MemoryKernel.COPY, read, written)

    def exchange_back_s(self, count: float, copies: int) -> float:
        """Seconds of the kernels around an exchange whose sums travel back to all copies."""
        if copies == 1:
            return 0.0
        read, written = memory.exchange_back_traffic_bytes(count, copies, fp32=self.runtime.fp32_gradients)
        return self.exchange_local_s(count, copies) + self._memory_s(MemoryKernel.COPY, read, written)

    def _memory_s(self, kernel: MemoryKernel, read: float, written: float) -> float:
        if not read:
            return 0.0
        work = MemoryWork(kernel=kernel, read_bytes=read, write_bytes=written)
        return operator_timing(work, self.cluster, fused_kernels=self.runtime.fused_kernels).time_s

    def update_s(self, count: float, shards: int) -> float:
        """Seconds of the norm and the update of so many parameters over so many shards."""
        norm = memory.norm_traffic_bytes(count, self.sharding.stage, shards) if self.runtime.norm_reads_gradients else 0
        norm_s = self._memory_s(MemoryKernel.COPY, norm, 0.0)
        if self.sharding.offload_optimizer:
            return norm_s + memory.host_update_s(
                count / (shards if self.sharding.stage >= 1 else 1),
                gpus_per_node=min(self.cluster.num_gpus, self.cluster.gpus_per_node),
                pcie_bytes_per_s=self.cluster.gpu.pcie_bytes_per_s,
                gradient_bytes_each=memory.FP32_BYTES if self.exchanges else self.runtime.gradient_reduce_bytes,
            )
        read, written = memory.optimizer_traffic_bytes(count, self.sharding.stage, shards)
        kernel = MemoryKernel.RESIDUAL if self.runtime.one_pass_update else MemoryKernel.OPTIMIZER
        return norm_s + self._memory_s(kernel, read, written)

    def sum_of_ends_s(self, count: float, split: int) -> float:
        """Seconds in which first and last pipeline stage sum gradients of so many parameters that both hold.

        Assumed: nothing runs beside it, since it follows the reduction of what the first stage's last backward leaves.
        Source: Megatron-Core's `finalize_model_grads`, which sums whole buffers.
        """
        mesh, gpus_per_node = self.mesh, self.cluster.gpus_per_node
        if mesh.pp == 1:
            return 0.0
        is_whole = self.sharding.stage == 0 or (self.sharding.stage == 1 and self.runtime.sums_whole_ends)
        shards = 1 if is_whole else self._num_shards(copies_group(mesh, split, gpus_per_node))
        num_bytes = count / shards * (memory.FP32_BYTES if self.runtime.fp32_gradients else memory.BF16_BYTES)
        ends = Group(size=2, ranks_per_node=2 if mesh.pp * mesh.pipeline_stride <= gpus_per_node else 1)
        return self._collective_s(Collective.ALL_REDUCE, num_bytes, ends)

    def with_sharded_parameters(
        self, cost: LayerCost, strategy: LayerStrategy, *, loss_bytes: float = 0.0
    ) -> LayerCost:
        """What ZeRO-2 and 3 add to every micro-batch: gradients scattered after each backward, parameters gathered.

        They run beside the whole pass (prefetch of the next layer), so only what exceeds it is exposed. The layer's
        gathered parameters are transient memory, twice: this layer's and the next one's. So are gradients, in the
        format in which they travel, of as many layers as the runtime has room for. What the loss holds beside the
        program (`loss_bytes`) is gone when the head's gradients are there.
        """
        stage = self.sharding.stage
        if stage < 2:
            return msgspec.structs.replace(cost, transient_bytes=cost.transient_bytes + loss_bytes)
        gather = self._by_link(cost.weights, strategy, self._gather_s) if stage >= 3 else {}
        reduce = {} if self.accumulates else self._by_link(cost.weights, strategy, self._reduce_s)
        backward = {link: _added(gather.get(link, NOTHING), reduce.get(link, NOTHING)) for link in (*gather, *reduce)}
        gathered = 2 * memory.BF16_BYTES if stage >= 3 else 0
        slots = self.runtime.gradient_slots * self.runtime.gradient_reduce_bytes + self.runtime.gradient_copy_bytes
        gradient_bytes = 0.0 if self.accumulates else cost.weights.total * slots
        return msgspec.structs.replace(
            cost,
            forward=self._beside(cost.forward, gather),
            backward=self._beside(cost.backward, backward),
            dgrad=self._beside(cost.dgrad, gather),
            wgrad=self._beside(cost.wgrad, reduce),
            transient_bytes=cost.transient_bytes + cost.weights.total * gathered + max(gradient_bytes, loss_bytes),
        )

    def _by_link(
        self, weights: Weights, strategy: LayerStrategy, seconds: Callable[[float, Group], float]
    ) -> dict[Resource, LinkSeconds]:
        totals: dict[Resource, LinkSeconds] = {}
        for count, group in self._held(weights, strategy):
            mine = self._link_seconds(count, group, seconds)
            totals[group.resource] = _added(totals.get(group.resource, NOTHING), mine)
        return totals

    @staticmethod
    def _link_seconds(count: float, group: Group, seconds: Callable[[float, Group], float]) -> LinkSeconds:
        time_s = seconds(count, group)
        if group.ranks_per_node == group.size:
            return LinkSeconds(time_s=time_s, inside_s=time_s)
        return LinkSeconds(time_s=time_s, inside_s=seconds(count, Group(size=group.size, ranks_per_node=group.size)))

    def _beside(self, terms: Terms, links: dict[Resource, LinkSeconds]) -> Terms:
        overlaps = self.runtime.overlap.data is not OverlapLevel.NONE and self.runtime.overlap_parameter_gather
        room_s = terms.total_s if overlaps else 0.0
        changes: dict[str, float] = {}
        for resource, seconds in links.items():
            link, time_s = "nvlink" if resource is Resource.NVLINK else "network", seconds.time_s
            compute_slowdown, window_per_s = self._slowdowns(resource, seconds)
            lent_per_s = window_per_s / compute_slowdown
            hidden_s = min(time_s, room_s / lent_per_s)
            if resource is Resource.NETWORK and terms.hidden_pcie_s:
                free_s = max(0.0, terms.total_s - terms.hidden_pcie_s)
                hidden_s = min(hidden_s, free_s / network_share_of_pcie(self.cluster))
            room_s -= hidden_s * lent_per_s
            slowdown_s = hidden_s * (window_per_s - lent_per_s)
            changes[f"hidden_{link}_s"] = getattr(terms, f"hidden_{link}_s") + hidden_s
            changes[f"exposed_{link}_s"] = getattr(terms, f"exposed_{link}_s") + time_s - hidden_s
            changes["slowdown_s"] = changes.get("slowdown_s", terms.slowdown_s) + slowdown_s
        return msgspec.structs.replace(terms, **changes)

    def _slowdowns(self, resource: Resource, seconds: LinkSeconds) -> tuple[float, float]:
        interference = self.cluster.profile.interference
        inside, network = interference.slowdowns(nvlink=True), interference.slowdowns(nvlink=False)
        if resource is Resource.NVLINK:
            return inside
        return between_nodes(inside, network, seconds.inside_s / seconds.time_s if seconds.time_s else 0.0)


class LinkSeconds(Value, frozen=True, kw_only=True):
    """Seconds of collectives on a link, and what they would take if all their ranks were in one node."""

    time_s: float
    inside_s: float


NOTHING = LinkSeconds(time_s=0.0, inside_s=0.0)


def _added(one: LinkSeconds, other: LinkSeconds) -> LinkSeconds:
    return LinkSeconds(time_s=one.time_s + other.time_s, inside_s=one.inside_s + other.inside_s)
