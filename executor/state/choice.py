"""What a plan says about the state of a model: what is sharded, in which formats it adds up and travels, what overlaps.

Where a simulation puts the collectives: `costmodel.data_parallel` and `costmodel.simulate.data_parallel`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.executor.layer.functions.statistics import statistics_type

BF16_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChoice:
    """A plan's sharding under its runtime, with weights of format `dtype`."""

    sharding: Sharding
    runtime: RuntimeSpec
    dtype: torch.dtype

    @property
    def shards_gradients(self) -> bool:
        """Gradients stay as shards (ZeRO-2)."""
        return self.sharding.stage >= 2 and not self.runtime.accumulates_unsharded

    @property
    def shards_weights(self) -> bool:
        """Weights stay as shards (ZeRO-3)."""
        return self.sharding.stage >= 3

    @property
    def gathers_beside(self) -> bool:
        """Weights are gathered beside the layers."""
        return self._beside_passes if self.shards_weights else self.runtime.overlap_parameter_gather

    @property
    def reduces_beside(self) -> bool:
        """Gradients are reduced beside the layers."""
        return self._beside_passes if self.shards_gradients else self.runtime.overlap_gradient_reduce

    @property
    def _beside_passes(self) -> bool:
        """What every pass does overlaps with it: the predictor takes one condition for both directions."""
        return self.runtime.overlap.data is not OverlapLevel.NONE and self.runtime.overlap_parameter_gather

    @property
    def sums(self) -> torch.dtype:
        """The format of gradients' sums over micro-batches."""
        return statistics_type(self.dtype) if self.runtime.fp32_gradients else self.dtype

    @property
    def wire(self) -> torch.dtype:
        """The format in which gradients travel: 16 bits where the plan says so and weights have no more."""
        in_bf16 = self.runtime.gradient_reduce_bytes == BF16_BYTES
        return torch.bfloat16 if in_bf16 and self.dtype is torch.bfloat16 else statistics_type(self.dtype)
