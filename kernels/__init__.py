"""Custom CUDA kernels for Hopper, each beside its PyTorch reference.

A folder an operation: contract (types, shapes, what the CUDA kernel takes), reference, launch choice, CUDA source, and
the operator that chooses between them. `build` compiles all sources into one library, `checking` has the one error
measure, the one way of timing and the one table of shapes that tests and benchmarks share. See docs/kernels.md.
"""
