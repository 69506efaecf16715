"""A training run, complete: model, cluster, workload, runtime and every choice of strategy. What a plan contains."""

from __future__ import annotations

from collections import Counter

from meshwright.costmodel.circumstances import Circumstances
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.expert_load import check_expert_load
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload


class Pipeline(Value, frozen=True, kw_only=True):
    """How micro-batches run through the stages. `virtual_stages` counts the chunks of a device."""

    schedule: ScheduleKind = ScheduleKind.ONE_F_ONE_B
    virtual_stages: int = 1
    micro_batch: int = 1

    def __post_init__(self) -> None:
        for name in ("virtual_stages", "micro_batch"):
            if getattr(self, name) < 1:
                raise StrategyError("pipeline", name, f"{getattr(self, name)} is not a positive whole number")


class TrainingConfiguration(Value, frozen=True, kw_only=True):
    """Everything that decides a step. `stages[j]` has the strategy of each layer of virtual stage j, in model order.

    `orders` fixes the order of operators inside a layer; what it leaves out is ordered by list scheduling.
    `circumstances` are no choice: what a cluster does beside its data sheet.
    """

    model: ModelSpec
    cluster: ClusterSpec
    workload: Workload
    runtime: RuntimeSpec
    mesh: Mesh
    sharding: Sharding
    pipeline: Pipeline
    stages: tuple[tuple[LayerStrategy, ...], ...]
    orders: OrderBook = OrderBook()
    circumstances: Circumstances = Circumstances()

    def __post_init__(self) -> None:
        self._check_gpus()
        self._check_stages()
        self.circumstances.check_stages(self.mesh.pp, len(self.stages))
        check_expert_load(self.model, self.workload.known_load)
        per_step = self.mesh.dp * self.pipeline.micro_batch
        if self.workload.global_batch % per_step:
            raise StrategyError(
                "workload",
                "global_batch",
                f"{self.workload.global_batch} sequences are not a multiple of dp {self.mesh.dp}"
                f" x micro-batch {self.pipeline.micro_batch} = {per_step}",
            )

    def _check_gpus(self) -> None:
        if self.mesh.num_gpus != self.cluster.num_gpus:
            raise StrategyError(
                "mesh",
                "pp",
                f"pp {self.mesh.pp} x dp {self.mesh.dp} x cp {self.mesh.cp} x sp {self.mesh.sp} x tp {self.mesh.tp}"
                f" = {self.mesh.num_gpus} GPUs, but the cluster has {self.cluster.num_gpus}",
            )

    def _check_stages(self) -> None:
        expected = self.mesh.pp * self.pipeline.virtual_stages
        if len(self.stages) != expected:
            raise StrategyError("pipeline", "stages", f"{len(self.stages)} virtual stages, expected {expected}")
        total = sum(len(stage) for stage in self.stages)
        if total != self.model.num_layers:
            raise StrategyError(
                "pipeline", "stages", f"{total} layers in all, but {self.model.name} has {self.model.num_layers}"
            )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one data-parallel replica in a step."""
        return self.workload.global_batch // (self.mesh.dp * self.pipeline.micro_batch)

    def layers_in_order(self, virtual_stage: int) -> tuple[tuple[LayerSpec, LayerStrategy], ...]:
        """The layers of a virtual stage, each with its strategy."""
        start = sum(len(stage) for stage in self.stages[:virtual_stage])
        strategies = self.stages[virtual_stage]
        return tuple(zip(self.model.layers[start : start + len(strategies)], strategies, strict=True))

    def layers_of(self, virtual_stage: int) -> Counter[tuple[LayerSpec, LayerStrategy]]:
        """How many layers of each kind and strategy a virtual stage has."""
        return Counter(self.layers_in_order(virtual_stage))
