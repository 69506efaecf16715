"""What routers of the next step go by that comes from loads and not from gradients; no collective, nothing waits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.executor.layer.bindings.router import CORRECTION
from meshwright.executor.layer.router_losses import LOAD


def balance_experts(
    router_constants: Mapping[str, Mapping[str, Tensor]], counts: Mapping[str, Tensor], bias_speed: float
) -> None:
    """After a step: bias += speed x sign(mean load - load), and the load that losses of the next step go by.

    `counts`: choices of all tokens of the step, int64, (E,), by layer. Source of the bias: arXiv 2408.15664;
    DeepSeek-V3 (arXiv 2412.19437, section 2.1.2) has a speed of 0.001.
    """
    for layer, constants in router_constants.items():
        counts_E = counts[layer]
        total, scaled = counts_E.sum(), counts_E * len(counts_E)
        if bias_speed and CORRECTION in constants:
            constants[CORRECTION].add_((total - scaled).sign(), alpha=bias_speed)
        if LOAD in constants:
            constants[LOAD].copy_(scaled.double() / total)
