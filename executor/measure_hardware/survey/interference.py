"""Which computation is measured beside which communication."""

from __future__ import annotations

from meshwright.costmodel.program.operators import Collective, CollectiveWork, GemmWork, Group, GroupedGemmWork
from meshwright.executor.measure_hardware.entry import Entry, Extent, InterferenceEntry, memory_entry
from meshwright.executor.measure_hardware.memory_case import MemoryCase, MemoryOperator
from meshwright.hardware_profiles.measurements import Implementation

NUM_CTAS = (0, 4, 8, 16, 32)
MESSAGE_BYTES = 2.0**28
TINY_BYTES = 2.0**12
COLLECTIVES = (Collective.ALL_GATHER, Collective.REDUCE_SCATTER, Collective.ALL_TO_ALL)


def link_interference(extent: Extent, num_gpus: int, gpus_per_node: int) -> tuple[InterferenceEntry, ...]:
    """Computation beside collectives of all GPUs, with the thread blocks that NCCL chooses (0) and with given ones."""
    group = Group(size=num_gpus, ranks_per_node=min(num_gpus, gpus_per_node))
    counts = NUM_CTAS if extent is Extent.FULL else (0,)
    num_bytes = TINY_BYTES if extent is Extent.TINY else MESSAGE_BYTES
    return tuple(
        InterferenceEntry(
            compute=compute,
            communication=CollectiveWork(collective=collective, num_bytes=num_bytes, group=group),
            implementation=Implementation.NCCL,
            num_ctas=num_ctas,
        )
        for compute in _computations(extent)
        for collective in COLLECTIVES
        for num_ctas in counts
    )


def copy_interference(extent: Extent) -> tuple[InterferenceEntry, ...]:
    """Computation beside messages that copy engines carry."""
    work = CollectiveWork(
        collective=Collective.SEND_RECV, num_bytes=MESSAGE_BYTES, group=Group(size=2, ranks_per_node=2)
    )
    return tuple(
        InterferenceEntry(compute=compute, communication=work, implementation=Implementation.COPY_ENGINE, num_ctas=0)
        for compute in (_computations(extent) if extent is not Extent.TINY else ())
    )


def _computations(extent: Extent) -> tuple[Entry, ...]:
    if extent is Extent.TINY:
        return (Entry(work=GemmWork(m=32, n=32, k=32), implementation=Implementation.CUBLAS),)
    large = Entry(work=GemmWork(m=8192, n=8192, k=8192), implementation=Implementation.CUBLAS)
    if extent is Extent.QUICK:
        return (large,)
    grouped = GroupedGemmWork(num_groups=16, rows=16384, n=3072, k=4096)
    return (
        large,
        Entry(work=GemmWork(m=4096, n=4096, k=2048), implementation=Implementation.CUBLAS),
        Entry(work=grouped, implementation=Implementation.GROUPED_MM),
        memory_entry(MemoryCase(operator=MemoryOperator.RESIDUAL, rows=16384, width=4096), Implementation.FUSED),
    )
