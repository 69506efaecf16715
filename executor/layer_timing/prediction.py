"""What the cost model says about a layer that runs operator by operator, on one stream or on several."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.alone import timing
from meshwright.costmodel.hardware import ClusterSpec, Timing
from meshwright.costmodel.layer_cost import Terms, layer_cost
from meshwright.costmodel.operator_time import host_time_s
from meshwright.costmodel.order.launch_order import LayerOrder
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.operators import Operator
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Recompute
from meshwright.costmodel.tables import AttentionBackend
from meshwright.executor.layer.context import AttentionKernel
from meshwright.hardware_profiles import load_cluster, load_profile


def host_cluster(profile: str, num_gpus: int) -> ClusterSpec:
    """One host of `num_gpus` GPUs of a profile, whose links between nodes nothing uses."""
    cluster = load_cluster("h100", num_gpus=8)
    return msgspec.structs.replace(
        cluster, name=profile, profile=load_profile(profile), gpus_per_node=num_gpus, num_gpus=num_gpus
    )


def plain_runtime(
    attention_kernel: AttentionKernel, *, fused_kernels: bool, custom_kernels: bool = False
) -> RuntimeSpec:
    """The executor's plain run of one layer: no overlap, no CUDA graphs, gradients in BF16."""
    backend = AttentionBackend.FA2 if attention_kernel is AttentionKernel.FA2 else AttentionBackend.CUDNN
    return RuntimeSpec(
        name="layer-by-operators",
        source="meshwright.executor.layer, every operator issued from Python to one stream",
        attention_backend=backend,
        fused_kernels=fused_kernels,
        custom_kernels=custom_kernels,
        fp32_gradients=False,
    )


def overlapping(runtime: RuntimeSpec) -> RuntimeSpec:
    """The same with collectives beside whatever neither needs them nor is needed by them."""
    beside = OverlapLevel.INTER_OPERATOR
    overlap = LayerOverlap(tensor=beside, sequence=beside, context=beside, expert=beside)
    return msgspec.structs.replace(runtime, overlap=overlap)


class LayerPrediction:
    """Predictions for one program on one host under one runtime, in an order given or found."""

    def __init__(
        self, program: LayerProgram, cluster: ClusterSpec, runtime: RuntimeSpec, order: LayerOrder | None = None
    ) -> None:
        self._cluster = cluster
        self._runtime = runtime
        self._cost = layer_cost(program, Recompute.NONE, cluster, runtime, order=order)

    @property
    def forward(self) -> Terms:
        """The forward pass."""
        return self._cost.forward

    @property
    def backward(self) -> Terms:
        """The backward pass."""
        return self._cost.backward

    def timing_of(self, operator: Operator) -> Timing:
        """One operator on the device."""
        return timing(operator.work, self._cluster, self._runtime)

    def host_s_of(self, operator: Operator) -> float:
        """One operator on the host."""
        return host_time_s(operator.work, self._cluster.profile, cuda_graphs=False)
