"""In which formats and with which kernels a model runs, and what its description leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from meshwright.executor.layer.context import AttentionKernel, RoutingChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """`dtype`: weights and activations; sums, masters and statistics are FP32 or wider."""

    device: torch.device
    dtype: torch.dtype
    attention_kernel: AttentionKernel = AttentionKernel.FORMULA
    fuse: bool = False
    routing: RoutingChoice = field(default_factory=RoutingChoice)
    norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
