"""RMSNorm and LayerNorm, forward and backward. Statistics are float32 or wider.

Two ways each: the kernels that torch ships, where it has them for the device, and the formula, which `torch.compile`
fuses and which serves as the truth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.functions.statistics import statistics_type


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """X / rms(x) * weight over the last dim, and 1 / rms(x) of shape (..., 1)."""
    wide = x.to(statistics_type(x.dtype))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    normed = wide * scale
    return (normed if weight is None else normed * weight).to(x.dtype), scale


def rms_norm_backward(
    x: Tensor, scale: Tensor, weight: Tensor | None, grad: Tensor, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight; `scale` is 1 / rms(x), `residual` what else reaches x."""
    wide = statistics_type(x.dtype)
    normed, upstream = x.to(wide) * scale, grad.to(wide)
    grad_weight = (upstream * normed).flatten(0, -2).sum(0)
    inner = upstream if weight is None else upstream * weight
    grad_x = scale * (inner - normed * (inner * normed).mean(-1, keepdim=True))
    if residual is not None:
        grad_x = grad_x + residual
    return grad_x.to(x.dtype), grad_weight.to(x.dtype)


def shipped_rms_norm(x: Tensor, weight: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """As `rms_norm`, by the kernel that torch ships for CUDA."""
    normed, scale = torch.ops.aten._fused_rms_norm(x, [x.shape[-1]], weight, epsilon)
    return normed, scale


def shipped_rms_norm_backward(
    x: Tensor, scale: Tensor, weight: Tensor | None, grad: Tensor, residual: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """As `rms_norm_backward`, by the kernel that torch ships for CUDA, and an addition."""
    mask = [True, weight is not None]
    grad_x, grad_weight = torch.ops.aten._fused_rms_norm_backward(
        grad.contiguous(), x.contiguous(), [x.shape[-1]], scale, weight, mask
    )
    return grad_x if residual is None else grad_x + residual, grad_weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """The normed x, its mean and one over its standard deviation."""
    normed, mean, scale = torch.ops.aten.native_layer_norm(x, [x.shape[-1]], weight, bias, epsilon)
    return normed, mean, scale


def layer_norm_backward(
    x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of the weight and of the bias."""
    grads = torch.ops.aten.native_layer_norm_backward(
        grad, x, [x.shape[-1]], mean, scale, weight, bias, [True, True, True]
    )
    grad_x, grad_weight, grad_bias = grads
    return grad_x, grad_weight, grad_bias
