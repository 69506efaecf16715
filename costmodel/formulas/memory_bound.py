"""How long kernels take that only move data."""

from __future__ import annotations


def memory_bound_s(
    num_bytes: float, copy_bytes_per_s: float, share: float, num_kernels: int, kernel_floor_s: float
) -> float:
    """Time of memory-bound kernels: a start-up each, then the traffic at a share of the copy bandwidth.

    Equation: kernels * floor + bytes / (share * copy bandwidth).
    Source: measured, H100 SXM: device copy 3.01 TB/s; the floor is the shortest kernel's time on the GPU.

    >>> memory_bound_s(num_bytes=3e9, copy_bytes_per_s=3e12, share=0.5, num_kernels=1, kernel_floor_s=2e-6)
    0.002002
    """
    return num_kernels * kernel_floor_s + num_bytes / (share * copy_bytes_per_s)
