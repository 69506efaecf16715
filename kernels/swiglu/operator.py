"""SwiGLU by the CUDA kernels, or by the reference where they can't run. One launch each, nothing waits."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.dispatch import dispatcher, launch
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.swiglu.contract import OPERATION, SwigluGradients, check_swiglu
from meshwright.kernels.swiglu.launch import why_not
from meshwright.kernels.swiglu.reference import swiglu_backward_reference, swiglu_reference
from meshwright.kernels.tensors import check_shape, first_reason, why_not_rows

BACKWARD = "swiglu_backward"


def swiglu(gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None = None, rowmap: RowMap | None = None) -> Tensor:
    """Silu(gate) * up * weights, (P, F)."""
    check_swiglu(OPERATION, gate_PF, up_PF, weights_P, rowmap)
    weights = None if weights_P is None else weights_P.contiguous()
    if not dispatcher().runs_cuda(OPERATION, gate_PF, why_not(gate_PF, up_PF, weights)):
        return swiglu_reference(gate_PF, up_PF, weights, rowmap)
    out = gate_PF.new_empty(gate_PF.shape)
    launch("swiglu", gate_PF.device, gate_PF, up_PF, weights, *live_rows(rowmap), out)
    return out


def swiglu_backward(
    gate_PF: Tensor, up_PF: Tensor, grad_PF: Tensor, weights_P: Tensor | None = None, rowmap: RowMap | None = None
) -> SwigluGradients:
    """Gradients of gate and up side by side and, where rows were weighted, of the weights."""
    check_swiglu(BACKWARD, gate_PF, up_PF, weights_P, rowmap)
    check_shape(BACKWARD, "grad", grad_PF, tuple(gate_PF.shape))
    weights = None if weights_P is None else weights_P.contiguous()
    grad = grad_PF.contiguous()
    reason = first_reason(why_not(gate_PF, up_PF, weights), why_not_rows("grad", grad))
    if not dispatcher().runs_cuda(BACKWARD, gate_PF, reason):
        return swiglu_backward_reference(gate_PF, up_PF, grad, weights, rowmap)
    joint = gate_PF.new_empty(gate_PF.shape[0], 2 * gate_PF.shape[1])
    grad_weights = None if weights is None else torch.empty_like(weights)
    arguments = (gate_PF, up_PF, weights, *live_rows(rowmap), grad, joint, grad_weights)
    launch("swiglu_backward", gate_PF.device, *arguments)
    return SwigluGradients(joint_P2F=joint, weights_P=grad_weights)


def live_rows(rowmap: RowMap | None) -> tuple[Tensor | None, Tensor | None]:
    """What tells a kernel which rows are there."""
    return (None, None) if rowmap is None else (rowmap.slots_P, rowmap.offsets_E)
