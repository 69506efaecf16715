"""One operator that runs alone: its seconds on its resource and on the host."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.formulas.matmul import added_gradient_bytes
from meshwright.costmodel.hardware import Basis, ClusterSpec, Timing, least_known
from meshwright.costmodel.operator_time import host_time_s, operator_timing
from meshwright.costmodel.program.operators import (
    AttentionWork,
    CollectiveWork,
    CopyWork,
    GemmWork,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Resource,
    Work,
)
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.value import Value


class Alone(Value, frozen=True, kw_only=True):
    """One operator that runs alone: seconds on its resource and of the host, and the term (or link) they count as.

    `host_s` is launching it as the runtime does, `graph_host_s` from a CUDA graph.
    """

    time_s: float
    host_s: float
    graph_host_s: float
    kind: str


@lru_cache(maxsize=262144)
def alone(work: Work, cluster: ClusterSpec, runtime: RuntimeSpec) -> Alone:
    """Seconds of an operator's work with nothing beside it, as the runtime launches it."""
    launches = _launches(work, runtime)
    graph_s = launches * host_time_s(work, cluster.profile, cuda_graphs=True)
    eager_s = launches * host_time_s(work, cluster.profile, cuda_graphs=False) * runtime.host_operators_per_kernel
    return Alone(
        time_s=timing(work, cluster, runtime).time_s,
        host_s=graph_s if runtime.cuda_graphs else eager_s,
        graph_host_s=graph_s,
        kind=_kind(work),
    )


def _launches(work: Work, runtime: RuntimeSpec) -> int:
    """Launches for one kernel of the program: one an expert where grouped products are loops over experts."""
    if isinstance(work, GroupedGemmWork) and runtime.launches_per_expert:
        return work.num_groups * runtime.launches_per_expert
    return 2 if adds_apart(work, runtime) else 1


def adds_apart(work: Work, runtime: RuntimeSpec) -> bool:
    """Whether a kernel of its own adds the product to what was there."""
    return isinstance(work, GroupedGemmWork) and work.accumulates_fp32 and runtime.adds_grouped_gradients


def _kind(work: Work) -> str:
    match work:
        case GemmWork():
            return "gemm_s"
        case GroupedGemmWork():
            return "grouped_gemm_s"
        case AttentionWork():
            return "attention_s"
        case CopyWork():
            return "pcie_s"
        case CollectiveWork():
            return "nvlink_s" if work.group.resource is Resource.NVLINK else "network_s"
        case _:
            return "memory_bound_s"


def timing(work: Work, cluster: ClusterSpec, runtime: RuntimeSpec) -> Timing:
    """Seconds of one operator that runs alone and what they rest on."""
    if isinstance(work, GroupedGemmWork) and adds_apart(work, runtime):
        return _product_and_sum(work, cluster, runtime)
    found = operator_timing(
        work,
        cluster,
        attention_backend=runtime.attention_backend,
        fused_kernels=runtime.fused_kernels,
        custom_kernels=runtime.custom_kernels,
    )
    if isinstance(work, AttentionWork) and runtime.attention_time_factor != 1.0:
        return Timing(time_s=found.time_s * runtime.attention_time_factor, basis=Basis.EXTRAPOLATED)
    return found


def _product_and_sum(work: GroupedGemmWork, cluster: ClusterSpec, runtime: RuntimeSpec) -> Timing:
    """A product that is written in 16 bits, and the kernel that adds it to FP32 sums: as fast as adding a residual."""
    read, written = added_gradient_bytes(work)
    product = timing(msgspec.structs.replace(work, accumulates_fp32=False), cluster, runtime)
    added = timing(MemoryWork(kernel=MemoryKernel.RESIDUAL, read_bytes=read, write_bytes=written), cluster, runtime)
    return Timing(time_s=product.time_s + added.time_s, basis=least_known(product.basis, added.basis))
