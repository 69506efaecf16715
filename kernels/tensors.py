"""What every operator asks of its tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.errors import KernelInputError

VECTOR_BYTES = 16
ROW_FORMATS = (torch.bfloat16, torch.float32)
"""Number formats of rows that CUDA kernels take; sums are float32 in both."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The number format of sums: float32, or what is wider."""
    return torch.promote_types(dtype, torch.float32)


def check_shape(operation: str, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless a tensor has the shape."""
    if tuple(tensor.shape) != shape:
        raise KernelInputError(f"{operation}: {name} has shape {tuple(tensor.shape)}, expected {shape}")


def check_dims(operation: str, name: str, tensor: Tensor, dims: int) -> None:
    """Raise unless a tensor has so many dims."""
    if tensor.dim() != dims:
        raise KernelInputError(f"{operation}: {name} has {tensor.dim()} dims, expected {dims}")


def is_aligned(tensor: Tensor) -> bool:
    """Whether the first number lies at a multiple of 16 bytes."""
    return tensor.data_ptr() % VECTOR_BYTES == 0


def why_not_rows(name: str, tensor: Tensor) -> str | None:
    """Why a CUDA kernel can't take a matrix as rows of 16-byte vectors; None: it can.

    Columns lie side by side; rows may be apart, by a multiple of 16 bytes.
    """
    if tensor.dtype not in ROW_FORMATS:
        return f"{name} is {tensor.dtype}, CUDA kernels take bfloat16 and float32"
    size = tensor.element_size()
    if tensor.shape[1] * size % VECTOR_BYTES:
        return f"{name} has rows of {tensor.shape[1] * size} bytes, expected a multiple of {VECTOR_BYTES}"
    if tensor.stride(1) != 1 or tensor.stride(0) * size % VECTOR_BYTES or not is_aligned(tensor):
        return f"{name} has strides {tensor.stride()}, expected rows side by side at multiples of {VECTOR_BYTES} bytes"
    return None


def first_reason(*reasons: str | None) -> str | None:
    """The first reason that there is."""
    return next((reason for reason in reasons if reason is not None), None)
