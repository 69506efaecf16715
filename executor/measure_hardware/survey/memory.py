"""Memory-bound operators to measure: plain PyTorch, compiled, and one-kernel forms where PyTorch ships them."""

from __future__ import annotations

from meshwright.costmodel.program.operators import CopyWork
from meshwright.executor.measure_hardware.entry import Direction, Entry, Extent, memory_entry
from meshwright.executor.measure_hardware.memory_case import CUSTOM, MemoryCase, MemoryOperator
from meshwright.hardware_profiles.measurements import Implementation

TOKENS = (64, 512, 2048, 4096, 8192, 16384)
QUICK_TOKENS = (512, 8192)
TINY_TOKENS = (16,)
COPY_BYTES = (2**18, 2**21, 2**24, 2**26, 2**28, 2**30)
QUICK_COPY_BYTES = (2**24, 2**30)
TINY_COPY_BYTES = (2**12,)
HOST_BYTES = (2**14, 2**18, 2**22, 2**26, 2**29)
QUICK_HOST_BYTES = (2**22, 2**28)
PARAMETERS = (2**16, 2**20, 2**23, 2**25, 2**27, 2**28)
WIDTH = 4096
VOCABULARY = 32768
EXPERTS = 128
TOP_K = 8

EAGER, COMPILED, FUSED = Implementation.EAGER, Implementation.COMPILED, Implementation.FUSED

IMPLEMENTATIONS: dict[MemoryOperator, tuple[Implementation, ...]] = {
    MemoryOperator.COPY: (FUSED,),
    MemoryOperator.NORM: (COMPILED, FUSED),
    MemoryOperator.NORM_BACKWARD: (COMPILED, FUSED),
    MemoryOperator.RESIDUAL: (FUSED,),
    MemoryOperator.ROPE: (EAGER, COMPILED),
    MemoryOperator.SWIGLU: (EAGER, COMPILED),
    MemoryOperator.SWIGLU_BACKWARD: (EAGER, COMPILED),
    MemoryOperator.PERMUTE: (EAGER, COMPILED),
    MemoryOperator.PERMUTE_BACKWARD: (EAGER, COMPILED),
    MemoryOperator.UNPERMUTE: (EAGER, COMPILED),
    MemoryOperator.UNPERMUTE_BACKWARD: (EAGER, COMPILED),
    MemoryOperator.ROUTER: (EAGER, COMPILED),
    MemoryOperator.ROUTER_BACKWARD: (EAGER,),
    MemoryOperator.CAST_FP8: (EAGER, COMPILED),
    MemoryOperator.CAST_FP32: (FUSED,),
    MemoryOperator.CROSS_ENTROPY: (EAGER, COMPILED),
    MemoryOperator.CROSS_ENTROPY_BACKWARD: (EAGER, COMPILED),
    MemoryOperator.OPTIMIZER: (EAGER, FUSED),
}
"""FUSED without EAGER: eager code calls that kernel, too."""

PERMUTATIONS = (
    MemoryOperator.PERMUTE,
    MemoryOperator.PERMUTE_BACKWARD,
    MemoryOperator.UNPERMUTE,
    MemoryOperator.UNPERMUTE_BACKWARD,
)


def memory_entries(extent: Extent, *, custom_kernels: bool) -> tuple[Entry, ...]:
    """Entries of `MemoryWork` and of copies between GPU and host (`CopyWork`, both directions).

    `custom_kernels`: those of Meshwright's CUDA kernels, too.
    """
    compiled = extent is Extent.FULL  # compiling takes longer than a quick run may
    entries = [
        memory_entry(case, implementation)
        for operator, implementations in IMPLEMENTATIONS.items()
        for implementation in implementations
        if compiled or implementation is not COMPILED
        for case in _cases(operator, extent)
    ]
    custom = [
        memory_entry(case, Implementation.CUSTOM)
        for operator in (CUSTOM if custom_kernels else ())
        for case in _cases(operator, extent)
    ]
    return (*entries, *custom, *_host_copies(extent))


def _cases(operator: MemoryOperator, extent: Extent) -> list[MemoryCase]:
    tokens = {Extent.TINY: TINY_TOKENS, Extent.QUICK: QUICK_TOKENS, Extent.FULL: TOKENS}[extent]
    small = extent is Extent.TINY
    if operator is MemoryOperator.COPY:
        sizes = {Extent.TINY: TINY_COPY_BYTES, Extent.QUICK: QUICK_COPY_BYTES, Extent.FULL: COPY_BYTES}[extent]
        return [MemoryCase(operator=operator, rows=1, width=size // 2) for size in sizes]
    if operator is MemoryOperator.OPTIMIZER:
        counts = {Extent.TINY: (256,), Extent.QUICK: PARAMETERS[3:4], Extent.FULL: PARAMETERS}[extent]
        return [MemoryCase(operator=operator, rows=1, width=count) for count in counts]
    if operator in PERMUTATIONS:
        top_k = 2 if small else TOP_K
        return [
            MemoryCase(operator=operator, rows=count * top_k, width=32 if small else WIDTH // 2, top_k=top_k)
            for count in tokens
        ]
    if operator in (MemoryOperator.ROUTER, MemoryOperator.ROUTER_BACKWARD):
        width, top_k = (8, 2) if small else (EXPERTS, TOP_K)
        return [MemoryCase(operator=operator, rows=count, width=width, top_k=top_k) for count in tokens]
    if operator in (MemoryOperator.CROSS_ENTROPY, MemoryOperator.CROSS_ENTROPY_BACKWARD):
        return [MemoryCase(operator=operator, rows=count, width=64 if small else VOCABULARY) for count in tokens]
    width = 128 if small else WIDTH
    return [MemoryCase(operator=operator, rows=count, width=width) for count in tokens]


def _host_copies(extent: Extent) -> list[Entry]:
    sizes = {Extent.TINY: TINY_COPY_BYTES, Extent.QUICK: QUICK_HOST_BYTES, Extent.FULL: HOST_BYTES}[extent]
    return [
        Entry(work=CopyWork(num_bytes=float(size)), implementation=Implementation.COPY_ENGINE, copy_direction=direction)
        for size in sizes
        for direction in Direction
    ]
