"""In which formats and with which kernels a model runs, and what its shapes leave open."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from msgspec import UNSET, UnsetType

from meshwright.executor.layer.context import AttentionKernel, RoutingChoice
from meshwright.executor.layer.router_losses import RouterLosses
from meshwright.executor.weights.numerics import ModelNumerics


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """`dtype`: weights and activations; sums, masters and statistics are FP32 or wider. `balanced`: tokens go to
    experts in turn, whatever the router says. `router_losses`: what routers are trained for beside the tokens' loss.
    `capacity_factor`: of experts, as the plan has it unless set.
    """

    device: torch.device
    dtype: torch.dtype
    attention_kernel: AttentionKernel = AttentionKernel.FORMULA
    fuse: bool = False
    balanced: bool = False
    router_losses: RouterLosses = field(default_factory=RouterLosses)
    capacity_factor: float | UnsetType = UNSET
    described: ModelNumerics = field(default_factory=ModelNumerics)

    @property
    def routing(self) -> RoutingChoice:
        """How tokens choose experts."""
        return replace(self.described.routing, balanced=self.balanced)
