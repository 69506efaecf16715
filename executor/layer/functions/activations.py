"""Activation of a feed-forward block and its backward: SwiGLU where gated, else GELU; times each row's gate weight.

Source: SwiGLU, arXiv 2002.05202; the gate weight before FC2, MegaScale-MoE (arXiv 2505.11432, section 4.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.executor.layer.functions.statistics import statistics_type


def swiglu(gate_RF: Tensor, up_RF: Tensor, weights_R1: Tensor | None) -> Tensor:
    """Silu(gate) * up * weights, (R, F)."""
    product = F.silu(gate_RF) * up_RF
    return product if weights_R1 is None else product.mul_(weights_R1.to(product.dtype))


def swiglu_fused(gate_RF: Tensor, up_RF: Tensor, weights_R1: Tensor | None) -> Tensor:
    """As `swiglu`, in float32 inside, as one expression for `torch.compile`."""
    wide = statistics_type(gate_RF.dtype)
    product = F.silu(gate_RF.to(wide)) * up_RF.to(wide)
    return (product if weights_R1 is None else product * weights_R1).to(gate_RF.dtype)


def swiglu_backward(
    gate_RF: Tensor, up_RF: Tensor, weights_R1: Tensor | None, grad_RF: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of gate and up side by side, (R, 2F), and of the weights, (R, 1)."""
    joint = gate_RF.new_empty(gate_RF.shape[0], 2 * gate_RF.shape[1])
    grad_gate, grad_up = joint.chunk(2, -1)
    upstream = grad_RF * F.silu(gate_RF)
    grad_weights = None
    grad_silu = grad_RF * up_RF
    if weights_R1 is None:
        grad_up.copy_(upstream)
    else:
        grad_weights = (upstream * up_RF).sum(-1, keepdim=True, dtype=weights_R1.dtype)
        factor = weights_R1.to(gate_RF.dtype)
        torch.mul(upstream, factor, out=grad_up)
        grad_silu.mul_(factor)
    torch.ops.aten.silu_backward.grad_input(grad_silu, gate_RF, grad_input=grad_gate)
    return joint, grad_weights


def swiglu_backward_fused(
    gate_RF: Tensor, up_RF: Tensor, weights_R1: Tensor | None, grad_RF: Tensor
) -> tuple[Tensor, Tensor | None]:
    """As `swiglu_backward`, in float32 inside, as one expression for `torch.compile`."""
    wide = statistics_type(gate_RF.dtype)
    gate, up, grad = gate_RF.to(wide), up_RF.to(wide), grad_RF.to(wide)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    factor = grad if weights_R1 is None else grad * weights_R1
    grad_gate = factor * up * sigmoid * (1 + gate * (1 - sigmoid))
    joint = torch.cat((grad_gate, factor * silu), -1).to(gate_RF.dtype)
    return joint, None if weights_R1 is None else (grad * silu * up).sum(-1, keepdim=True)


def gelu(x_RF: Tensor, weights_R1: Tensor | None) -> Tensor:
    """Gelu(x) * weights, (R, F)."""
    product = F.gelu(x_RF)
    return product if weights_R1 is None else product.mul_(weights_R1.to(product.dtype))


def gelu_backward(x_RF: Tensor, weights_R1: Tensor | None, grad_RF: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and of the weights, (R, 1)."""
    if weights_R1 is None:
        return torch.ops.aten.gelu_backward(grad_RF, x_RF), None
    grad_weights = (grad_RF * F.gelu(x_RF)).sum(-1, keepdim=True, dtype=weights_R1.dtype)
    return torch.ops.aten.gelu_backward(grad_RF * weights_R1.to(x_RF.dtype), x_RF), grad_weights
