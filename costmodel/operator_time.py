"""How long one operator takes on one GPU of a cluster: the formulas joined with the profile's measured tables."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.collective_time import collective_timing
from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.formulas.attention import (
    attention_bytes,
    attention_flops,
    idle_sm_factor,
    is_causal,
    resembled_length,
)
from meshwright.costmodel.formulas.matmul import (
    gemm_bytes,
    gemm_flops,
    grouped_gemm_bytes,
    grouped_gemm_flops,
    padded,
    roofline_s,
    sustained_s,
)
from meshwright.costmodel.formulas.memory_bound import memory_bound_s
from meshwright.costmodel.hardware import Basis, ClusterSpec, HardwareProfile, Timing
from meshwright.costmodel.prepared import GemmModel, PreparedProfile, prepare
from meshwright.costmodel.program.operators import (
    AttentionWork,
    CollectiveWork,
    GemmWork,
    GroupedGemmWork,
    MemoryWork,
    Pass,
    Work,
)
from meshwright.costmodel.tables import AttentionBackend, Source

CACHE_SIZE = 1 << 18
ATTENTION_BACKWARD_KERNELS = 3


@lru_cache(maxsize=CACHE_SIZE)
def operator_timing(
    work: Work,
    cluster: ClusterSpec,
    *,
    attention_backend: AttentionBackend = AttentionBackend.BEST,
    fused_kernels: bool = True,
) -> Timing:
    """Seconds that `work` occupies the GPU or the link, and what the figure rests on. Host time is `host_time_s`.

    `fused_kernels`: norms, activations and the like run as fused kernels, not as eager framework code.
    """
    tables = prepare(cluster.profile)
    match work:
        case GemmWork():
            return _gemm(work, cluster.profile, tables)
        case MemoryWork():
            return _memory_bound(work, cluster.profile, tables, fused_kernels)
        case CollectiveWork():
            return collective_timing(work, cluster, tables)
        case AttentionWork():
            return _attention(work, cluster.profile, tables, AttentionBackend(attention_backend))
        case GroupedGemmWork():
            return _grouped_gemm(work, cluster.profile, tables)


def num_kernels(work: Work) -> int:
    """Kernels launched for `work`: three for the backward of attention (row sums, gradients, conversion of dq)."""
    match work:
        case MemoryWork():
            return work.num_kernels
        case AttentionWork(backward=True):
            return ATTENTION_BACKWARD_KERNELS
        case CollectiveWork():
            return 1 if work.group.size > 1 else 0
        case _:
            return 1


def host_time_s(work: Work, profile: HardwareProfile, cuda_graphs: bool) -> float:
    """Host time to launch `work`, in eager code or as part of a CUDA graph."""
    launch = profile.launch
    eager_s = launch.collective_eager_s if isinstance(work, CollectiveWork) else launch.eager_s
    return num_kernels(work) * (launch.cuda_graph_s if cuda_graphs else eager_s)


def _gemm(work: GemmWork, profile: HardwareProfile, tables: PreparedProfile) -> Timing:
    model = tables.gemm_model(work.precision)
    flops = gemm_flops(padded(work.m), padded(work.n), work.k)
    return _product(model, profile, flops=flops, num_bytes=gemm_bytes(work), shape=(work.m, work.n, work.k), share=1.0)


def _grouped_gemm(work: GroupedGemmWork, profile: HardwareProfile, tables: PreparedProfile) -> Timing:
    """Looked up as the dense product of one wave-filling shape, times the measured share of grouped kernels."""
    model = tables.gemm_model(work.precision)
    backward_weights = work.direction is Pass.WGRAD
    rows = work.rows / work.num_groups
    shape = (work.num_groups * work.k, work.n, rows) if backward_weights else (work.rows, work.n, work.k)
    share = tables.grouped_share(work.precision, backward_weights)
    timing = _product(
        model,
        profile,
        flops=grouped_gemm_flops(work),
        num_bytes=grouped_gemm_bytes(work),
        shape=shape,
        share=share(rows),
    )
    outside = share.basis(rows) is Basis.EXTRAPOLATED or timing.basis is Basis.EXTRAPOLATED
    return Timing(time_s=timing.time_s, basis=Basis.EXTRAPOLATED if outside else Basis.INTERPOLATED)


def _product(
    model: GemmModel,
    profile: HardwareProfile,
    *,
    flops: float,
    num_bytes: float,
    shape: tuple[float, float, float],
    share: float,
) -> Timing:
    gpu = profile.gpu
    peak = gpu.peak_flops_per_s(model.precision)
    efficiency, basis = model.grid(*shape)
    efficiency *= model.scale
    compute_s = flops / peak / share
    roofline = max(compute_s, num_bytes / gpu.copy_bytes_per_s)
    time_s = sustained_s(roofline, efficiency, compute_s, model.sustained_fraction)
    least_s = roofline_s(flops, num_bytes, peak, gpu.memory_bytes_per_s)
    time_s = max(time_s, least_s, profile.launch.kernel_floor_s)
    return Timing(time_s=time_s, basis=Basis.EXTRAPOLATED if model.scale != 1.0 else basis)


def _attention(
    work: AttentionWork, profile: HardwareProfile, tables: PreparedProfile, backend: AttentionBackend
) -> Timing:
    gpu = profile.gpu
    length = resembled_length(work)
    head_dim = (work.head_dim + work.value_head_dim) / 2
    share, basis = tables.attention_share(backend, work.backward, is_causal(work), head_dim, length)
    compute_s = attention_flops(work) / (share * gpu.bf16_flops_per_s) * idle_sm_factor(work, gpu.num_sms)
    least_s = roofline_s(attention_flops(work), attention_bytes(work), gpu.bf16_flops_per_s, gpu.copy_bytes_per_s)
    return Timing(time_s=max(compute_s, least_s) + profile.launch.kernel_floor_s, basis=basis)


def _memory_bound(work: MemoryWork, profile: HardwareProfile, tables: PreparedProfile, fused: bool) -> Timing:
    entry = tables.memory.get(work.kernel)
    if entry is None:
        raise ProfileError(
            profile.gpu.name, f"memory.{work.kernel.value}", "is missing; expected a share of copy speed"
        )
    time_s = memory_bound_s(
        num_bytes=work.read_bytes + work.write_bytes,
        copy_bytes_per_s=profile.gpu.copy_bytes_per_s,
        share=entry.fused if fused else entry.eager,
        num_kernels=work.num_kernels,
        kernel_floor_s=profile.launch.kernel_floor_s,
    )
    derived = entry.provenance.source is Source.DERIVED
    return Timing(time_s=time_s, basis=Basis.EXTRAPOLATED if derived else Basis.INTERPOLATED)
