"""How long kernels take that only move data."""

from __future__ import annotations


def memory_bound_s(num_bytes: float, copy_bytes_per_s: float, share: float, start_s: float) -> float:
    """Time of memory-bound kernels: starting and ending them, then the traffic at a share of the copy bandwidth.

    Equation: start + bytes / (share * copy bandwidth).
    Source: measured, H100 SXM: device copy 3.01 TB/s; an operator's time is straight in its bytes from 1 MB to 1 GB.

    >>> memory_bound_s(num_bytes=3e9, copy_bytes_per_s=3e12, share=0.5, start_s=2e-6)
    0.002002
    """
    return start_s + num_bytes / (share * copy_bytes_per_s)
