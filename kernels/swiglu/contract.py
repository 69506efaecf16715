"""What SwiGLU takes and gives.

P rows of the buffer, F intermediate. silu(gate) * up * weight, in float32 inside. Gate and up may be halves of wider
rows. With a map, padding rows become zero without being read and rows behind the last group are left as they are.
Source: arXiv 2002.05202; the gate weight before FC2, MegaScale-MoE (arXiv 2505.11432, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.tensors import check_dims, check_shape

OPERATION = "swiglu"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwigluGradients:
    """joint_P2F: of the gate and of up, side by side; weights_P (float32), where rows were weighted."""

    joint_P2F: Tensor
    weights_P: Tensor | None


def check_swiglu(
    operation: str, gate_PF: Tensor, up_PF: Tensor, weights_P: Tensor | None, rowmap: RowMap | None
) -> None:
    """Raise where tensors do not fit."""
    check_dims(operation, "gate", gate_PF, 2)
    check_shape(operation, "up", up_PF, tuple(gate_PF.shape))
    if up_PF.dtype is not gate_PF.dtype:
        raise KernelInputError(f"{operation}: up is {up_PF.dtype}, gate {gate_PF.dtype}, expected the same")
    if weights_P is not None:
        check_shape(operation, "weights", weights_P, (gate_PF.shape[0],))
    if rowmap is not None and rowmap.capacity != gate_PF.shape[0]:
        raise KernelInputError(f"{operation}: gate has {gate_PF.shape[0]} rows, the map {rowmap.capacity}")


def forward_bytes(num_rows: int, width: int, number_bytes: int) -> int:
    """Bytes that must move: gate and up in, product out.

    >>> forward_bytes(1, 8, 2)
    48
    """
    return 3 * num_rows * width * number_bytes


def backward_bytes(num_rows: int, width: int, number_bytes: int) -> int:
    """Bytes that must move: gate, up and gradient in, two gradients out.

    >>> backward_bytes(1, 8, 2)
    80
    """
    return 5 * num_rows * width * number_bytes
