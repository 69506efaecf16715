"""CUDA headers that several kernels share: vectors, warps, rows that are there, padding."""
