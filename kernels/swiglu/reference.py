"""SwiGLU in plain PyTorch: the truth, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.swiglu.contract import SwigluGradients
from meshwright.kernels.tensors import wide


def product(gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None, rowmap: RowMap | None) -> Tensor:
    """The result in float32 or wider; zero for padding and behind the last group."""
    format_ = wide(gate_PF.dtype)
    out = F.silu(gate_PF.to(format_)) * up_PF.to(format_)
    if weights_P is not None:
        out = out * weights_P.to(format_).unsqueeze(-1)
    return _without_padding(out, rowmap)


def _without_padding(rows_PW: Tensor, rowmap: RowMap | None) -> Tensor:
    if rowmap is None:
        return rows_PW
    absent = rowmap.slots_P < 0
    return rows_PW.masked_fill(absent.view(-1, *[1] * (rows_PW.dim() - 1)), 0)


def swiglu_reference(gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None, rowmap: RowMap | None) -> Tensor:
    """Silu(gate) * up * weights, (P, F)."""
    return product(gate_PF, up_PF, weights_P, rowmap).to(gate_PF.dtype)


def swiglu_backward_reference(
    gate_PF: Tensor, up_PF: Tensor, grad_PF: Tensor, weights_P: Tensor | None, rowmap: RowMap | None
) -> SwigluGradients:
    """Gradients of gate, up and weights."""
    format_ = wide(gate_PF.dtype)
    gate, up, grad = gate_PF.to(format_), up_PF.to(format_), grad_PF.to(format_)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    upstream = grad if weights_P is None else grad * weights_P.to(format_).unsqueeze(-1)
    grad_gate = upstream * up * sigmoid * (1 + gate * (1 - sigmoid))
    joint = torch.cat((grad_gate, upstream * silu), -1).to(gate_PF.dtype)
    dots = None if weights_P is None else (grad * silu * up).sum(-1).to(weights_P.dtype)
    return SwigluGradients(
        joint_P2F=_without_padding(joint, rowmap),
        weights_P=None if dots is None else _without_padding(dots, rowmap),
    )
