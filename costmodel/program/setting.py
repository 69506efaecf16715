"""Everything about a layer's surroundings that its program depends on, besides the layer and the strategy."""

from __future__ import annotations

from meshwright.costmodel.expert_load import EVEN, BusiestRank
from meshwright.costmodel.program.operators import Group, Precision
from meshwright.costmodel.strategy import LayerStrategy, place_over_replicas
from meshwright.costmodel.value import Value


class ProgramSetting(Value, frozen=True, kw_only=True):
    """Shapes and numerics of one micro-batch on one rank.

    `expert_imbalance`: rows of the busiest expert-parallel rank over the mean, as assumed; `busiest`: as known.
    `fp32_gradients`: weight gradients are accumulated into FP32 buffers. `gate_before_fc2`: the gate weight multiplies
    the FC2 input (MegaScale-MoE section 4.1), so the FC2 output need not be kept. `gathers_fp8`: tensor-parallel ranks
    gather quantized values of one byte. `gathers_each_product`: every product gathers its input by itself.
    `data_stride`: ranks from one replica of a stage to the next, where they do not lie side by side.
    """

    hidden: int
    micro_batch: int
    seq_len: int
    strategy: LayerStrategy
    gpus_per_node: int
    precision: Precision = Precision.BF16
    expert_imbalance: float = 1.0
    busiest: BusiestRank = EVEN
    fp32_gradients: bool = True
    gate_before_fc2: bool = True
    activation_bytes: int = 2
    gathers_fp8: bool = False
    gathers_each_product: bool = False
    data_stride: int = 0

    @property
    def tokens(self) -> float:
        """Tokens a rank holds between layers, the residual stream: b s / (tp sp cp), or b s / (sp cp)."""
        split = self.strategy.replica_gpus
        if not self.strategy.sequence_parallel:
            split //= self.strategy.tp
        return self.micro_batch * self.seq_len / split

    @property
    def gathered_tokens(self) -> float:
        """Tokens a rank holds inside a tensor-parallel region: b s / (sp cp)."""
        return self.micro_batch * self.seq_len / (self.strategy.sp * self.strategy.cp)

    def group(self, size: int, stride: int = 1) -> Group:
        """The communicator of `size` ranks `stride` apart."""
        replica = self.strategy.replica_gpus
        return place_over_replicas(size, stride, replica, self.data_stride or replica, self.gpus_per_node)
