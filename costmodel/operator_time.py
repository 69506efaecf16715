"""How long one operator takes on one GPU of a cluster: the formulas joined with the profile's measured tables."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np

from meshwright.costmodel.collective_time import collective_timing
from meshwright.costmodel.formulas.attention import (
    CUDNN_HEAD_DIMS,
    FA2_HEAD_DIMS,
    attention_bytes,
    attention_flops,
    idle_sm_factor,
    is_causal,
    kernel_head_dim,
    last_block_overhang,
    resembled_length,
)
from meshwright.costmodel.formulas.matmul import (
    ACCUMULATE_BYTES,
    EXPOSED_OUTPUT,
    OUTPUT_BYTES,
    TiledMachine,
    gemm_bytes,
    gemm_flops,
    grouped_gemm_bytes,
    grouped_gemm_flops,
    grouped_tiles,
    padded,
    roofline_s,
    sustained_s,
    tiled_product_s,
)
from meshwright.costmodel.formulas.memory import host_copy_s
from meshwright.costmodel.formulas.memory_bound import memory_bound_s
from meshwright.costmodel.formulas.tiled_products import tiled_products_s
from meshwright.costmodel.hardware import Basis, ClusterSpec, HardwareProfile, Timing, least_known
from meshwright.costmodel.interpolate import LogGrid
from meshwright.costmodel.prepared import GemmModel, PreparedProfile, prepare
from meshwright.costmodel.program.operators import (
    AttentionWork,
    CollectiveWork,
    CopyWork,
    CustomWork,
    GemmWork,
    GroupedGemmWork,
    MemoryWork,
    Pass,
    Work,
)
from meshwright.costmodel.tables import AttentionBackend, CustomKernelShare, GroupedGemmLaw, Source

CACHE_SIZE = 1 << 18
ATTENTION_BACKWARD_KERNELS = 3


@lru_cache(maxsize=CACHE_SIZE)
def operator_timing(
    work: Work,
    cluster: ClusterSpec,
    *,
    attention_backend: AttentionBackend = AttentionBackend.BEST,
    fused_kernels: bool = True,
    custom_kernels: bool = False,
) -> Timing:
    """Seconds that `work` occupies the GPU or the link, and what the figure rests on. Host time is `host_time_s`.

    `fused_kernels`: norms, activations and the like run as fused kernels, not as eager framework code.
    `custom_kernels`: where one of Meshwright's CUDA kernels can, and the profile has its figures, it does.
    """
    tables = prepare(cluster.profile)
    match work:
        case GemmWork():
            return _gemm(work, cluster.profile, tables)
        case MemoryWork():
            own = custom_kernel(work, cluster.profile) if custom_kernels else None
            return own.timing(cluster.profile) if own else _memory_bound(work, cluster.profile, tables, fused_kernels)
        case CollectiveWork():
            return collective_timing(work, cluster, tables)
        case AttentionWork():
            return _attention(work, cluster.profile, tables, AttentionBackend(attention_backend))
        case GroupedGemmWork():
            return _grouped_gemm(work, cluster.profile, tables)
        case CopyWork():
            time_s = host_copy_s(work.num_bytes, cluster.gpu.pcie_bytes_per_s)
            return Timing(time_s=time_s, basis=Basis.EXTRAPOLATED)


class MeasuredKernel(NamedTuple):
    """One of Meshwright's CUDA kernels with its work and its figures."""

    work: CustomWork
    entry: CustomKernelShare

    def timing(self, profile: HardwareProfile) -> Timing:
        """Seconds, and what they rest on."""
        time_s = memory_bound_s(
            num_bytes=self.work.num_bytes,
            copy_bytes_per_s=profile.gpu.copy_bytes_per_s,
            share=self.entry.share,
            start_s=max(self.entry.start_s, profile.launch.kernel_floor_s),
        )
        derived = self.entry.provenance.source is Source.DERIVED
        return Timing(time_s=time_s, basis=Basis.EXTRAPOLATED if derived else Basis.INTERPOLATED)


def custom_kernel(work: MemoryWork, profile: HardwareProfile) -> MeasuredKernel | None:
    """The custom kernel that computes `work`, where there is one and the profile has its figures."""
    if work.custom is None:
        return None
    entry = prepare(profile).custom_kernel(work.custom.kernel)
    return None if entry is None else MeasuredKernel(work.custom, entry)


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
    """The law's time or that of the forward product, times the measured ratio of this kind where there is one."""
    model = tables.gemm_model(work.precision)
    ratios = tables.gemm_variant(work.precision, work.direction, work.accumulates_fp32)
    if model.law is not None and (ratios is not None or not work.accumulates_fp32):
        return _by_law(work, profile, model, ratios)
    m, n = (work.m, work.n) if model.law is not None else (int(padded(work.m)), int(padded(work.n)))
    plain = GemmWork(m=m, n=n, k=work.k, precision=work.precision)
    all_bytes = gemm_bytes(work if ratios is None else plain)
    load = _Load(gemm_flops(m, n, work.k), gemm_bytes(plain), all_bytes, OUTPUT_BYTES * m * n)
    forward = _product(model, profile, load, (m, n, work.k))
    if ratios is None:
        known = Basis.INTERPOLATED if work.accumulates_fp32 else forward.basis
        return Timing(time_s=forward.time_s, basis=least_known(forward.basis, known))
    ratio, basis = ratios(m, n, work.k)
    return Timing(time_s=forward.time_s * ratio, basis=least_known(forward.basis, basis))


def _by_law(work: GemmWork, profile: HardwareProfile, model: GemmModel, ratios: LogGrid | None) -> Timing:
    """The law with the traffic of this kind of product, times what it was measured to leave over.

    Without `ratios` the product is the forward one, or like it.
    """
    gpu, shape = profile.gpu, (work.m, work.n, work.k)
    output_bytes = ACCUMULATE_BYTES if work.accumulates_fp32 else OUTPUT_BYTES
    share, basis = model.grid(*shape)
    if ratios is not None:
        ratio, basis = ratios(*shape)
        share = 1.0 / ratio
    compute_s = gemm_flops(*shape) / gpu.peak_flops_per_s(work.precision)
    written_s = output_bytes * work.m * work.n / gpu.copy_bytes_per_s
    law_s = _law_s(model, profile, shape, output_bytes)
    time_s = sustained_s(law_s, share * model.scale, compute_s, model.sustained_fraction, written_s)
    least_s = max(compute_s, gemm_bytes(work) / gpu.copy_bytes_per_s, profile.launch.kernel_floor_s)
    return Timing(time_s=max(time_s, least_s), basis=Basis.EXTRAPOLATED if model.is_derived else basis)


def _law_s(
    model: GemmModel, profile: HardwareProfile, shape: tuple[float, float, float], output_bytes: int = OUTPUT_BYTES
) -> float:
    """Seconds by the law of the model's table, which must have one."""
    assert model.law is not None
    gpu = profile.gpu
    machine = TiledMachine(gpu.num_sms, gpu.peak_flops_per_s(model.precision), gpu.copy_bytes_per_s)
    return float(tiled_products_s(np.array([shape], dtype=np.float64), model.law, machine, output_bytes)[0])


def _grouped_gemm(work: GroupedGemmWork, profile: HardwareProfile, tables: PreparedProfile) -> Timing:
    law = tables.grouped_law(work.precision, work.direction)
    return _like_a_dense_product(work, profile, tables) if law is None else _by_tiles(work, profile, law)


def _by_tiles(work: GroupedGemmWork, profile: HardwareProfile, law: GroupedGemmLaw) -> Timing:
    peak = profile.gpu.peak_flops_per_s(work.precision)
    machine = TiledMachine(profile.gpu.num_sms, peak, profile.gpu.copy_bytes_per_s)
    time_s = tiled_product_s(grouped_tiles(work), grouped_gemm_bytes(work), law, machine)
    return Timing(time_s=time_s, basis=Basis.INTERPOLATED)


def _like_a_dense_product(work: GroupedGemmWork, profile: HardwareProfile, tables: PreparedProfile) -> Timing:
    """Looked up as one dense product that fills the GPU alike, times the measured share of grouped kernels."""
    is_wgrad = work.direction is Pass.WGRAD
    rows = work.rows / work.num_groups
    n = int(padded(work.n))
    shape = (padded(work.num_groups * work.k), n, rows) if is_wgrad else (padded(work.rows), n, work.k)
    share = tables.grouped_share(work.precision, is_wgrad)
    plain = msgspec.structs.replace(work, n=n, accumulates_fp32=False)
    outputs = (work.num_groups * work.k if is_wgrad else work.rows) * n
    load = _Load(
        grouped_gemm_flops(work),
        grouped_gemm_bytes(plain),
        grouped_gemm_bytes(work),
        OUTPUT_BYTES * outputs,
    )
    timing = _product(tables.gemm_model(work.precision), profile, load, shape)
    outside = share.basis(rows) is Basis.EXTRAPOLATED or timing.basis is Basis.EXTRAPOLATED
    time_s = timing.time_s / share(rows)
    return Timing(time_s=time_s, basis=Basis.EXTRAPOLATED if outside else Basis.INTERPOLATED)


class _Load(NamedTuple):
    """What a product does: FLOPs of whole tiles; bytes with a plain output, as they are, and of the plain output."""

    flops: float
    plain_bytes: float
    all_bytes: float
    output_bytes: float


def _product(model: GemmModel, profile: HardwareProfile, load: _Load, shape: tuple[float, float, float]) -> Timing:
    """Measured efficiency on the plain product, then the traffic of accumulation, the power limit and the floors."""
    gpu = profile.gpu
    efficiency, basis = _efficiency(model, profile, shape)
    compute_s = load.flops / gpu.peak_flops_per_s(model.precision)
    plain_s = max(compute_s, load.plain_bytes / gpu.copy_bytes_per_s)
    written_s = load.output_bytes / gpu.copy_bytes_per_s
    accumulated_s = max(0.0, load.all_bytes - load.plain_bytes) / gpu.copy_bytes_per_s
    time_s = sustained_s(plain_s, efficiency * model.scale, compute_s, model.sustained_fraction, written_s)
    time_s += EXPOSED_OUTPUT * accumulated_s
    least_s = max(compute_s, load.all_bytes / gpu.copy_bytes_per_s, profile.launch.kernel_floor_s)
    return Timing(time_s=max(time_s, least_s), basis=Basis.EXTRAPOLATED if model.is_derived else basis)


def _efficiency(model: GemmModel, profile: HardwareProfile, shape: tuple[float, float, float]) -> tuple[float, Basis]:
    """Share of its roofline that the forward product of the shape reaches; where there is a law, as its time says."""
    found, basis = model.grid(*shape)
    if model.law is None:
        return found, basis
    m, n, k = shape
    num_bytes = OUTPUT_BYTES * (m * k + k * n + m * n)
    peak = profile.gpu.peak_flops_per_s(model.precision)
    dense_s = roofline_s(gemm_flops(m, n, k), num_bytes, peak, profile.gpu.copy_bytes_per_s)
    return dense_s / _law_s(model, profile, shape) * found, basis


def _attention(
    work: AttentionWork, profile: HardwareProfile, tables: PreparedProfile, backend: AttentionBackend
) -> Timing:
    gpu = profile.gpu
    length = resembled_length(work)
    head_dim = (work.head_dim + work.value_head_dim) / 2
    run_dim = kernel_head_dim(work, FA2_HEAD_DIMS if backend is AttentionBackend.FA2 else CUDNN_HEAD_DIMS)
    share, basis = tables.attention_share(backend, work.backward, is_causal(work), run_dim, length)
    overhang = last_block_overhang(work, longest_first=backend is not AttentionBackend.FA2)
    flops = attention_flops(work) * run_dim / head_dim
    compute_s = flops / (share * gpu.bf16_flops_per_s) * idle_sm_factor(work, gpu.num_sms, overhang)
    least_s = roofline_s(attention_flops(work), attention_bytes(work), gpu.bf16_flops_per_s, gpu.copy_bytes_per_s)
    return Timing(time_s=max(compute_s, least_s) + profile.launch.kernel_floor_s, basis=basis)


def _memory_bound(work: MemoryWork, profile: HardwareProfile, tables: PreparedProfile, fused: bool) -> Timing:
    entry = tables.memory_share(work.kernel, work.backward)
    time_s = memory_bound_s(
        num_bytes=work.read_bytes + work.write_bytes,
        copy_bytes_per_s=profile.gpu.copy_bytes_per_s,
        share=entry.fused if fused else entry.eager,
        start_s=max(
            entry.fused_start_s if fused else entry.eager_start_s, work.num_kernels * profile.launch.kernel_floor_s
        ),
    )
    derived = entry.provenance.source is Source.DERIVED
    return Timing(time_s=time_s, basis=Basis.EXTRAPOLATED if derived else Basis.INTERPOLATED)
