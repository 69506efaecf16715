"""Operator times against figures that were measured or published.

Most of these figures also set constants of the profile (docs/hardware.md says which): the tests guard agreement with
them, they are no evidence of how well unseen shapes are predicted.
"""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.formulas.attention import attention_flops
from meshwright.costmodel.hardware import Basis, ClusterSpec
from meshwright.costmodel.operator_time import host_time_s, num_kernels, operator_timing
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    CustomKernel,
    CustomWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Pass,
    Precision,
)
from meshwright.costmodel.tables import AttentionBackend
from meshwright.hardware_profiles import load_cluster, load_profile


@pytest.fixture(scope="module")
def h100() -> ClusterSpec:
    return load_cluster("h100", num_gpus=64)


def causal(seq_len: int, *, backward: bool, head_dim: int = 128) -> AttentionWork:
    return AttentionWork(
        batch=2,
        num_heads=16,
        num_kv_heads=16,
        head_dim=head_dim,
        value_head_dim=head_dim,
        query_len=seq_len,
        key_len=seq_len,
        pairs=seq_len * seq_len / 2,
        backward=backward,
    )


@pytest.mark.parametrize(
    ("m", "n", "k", "precision", "measured_tflops"),
    [
        (8192, 8192, 8192, Precision.BF16, 677),
        (2048, 12288, 12288, Precision.BF16, 685),
        (8192, 8192, 8192, Precision.FP8, 1271),
        (2048, 12288, 12288, Precision.FP8, 1317),
    ],
)
def test_products_are_what_a_thermally_steady_gpu_reaches(
    h100: ClusterSpec, m: int, n: int, k: int, precision: Precision, measured_tflops: float
) -> None:
    """Measured on another H100 SXM than the profile's, random data, after ten seconds and more at 690 W."""
    timing = operator_timing(GemmWork(m=m, n=n, k=k, precision=precision), h100)
    assert 2e-12 * m * n * k / timing.time_s == pytest.approx(measured_tflops, rel=0.06)


@pytest.mark.parametrize(
    ("m", "n", "k", "precision", "published_tflops"),
    [
        (8192, 8192, 8192, Precision.BF16, 747),  # measured, 2 x H100
        (2048, 2048, 4096, Precision.BF16, 752),  # XLA's table for sm_90
        (4096, 4096, 4096, Precision.BF16, 780),  # XLA's table for sm_90
        (8192, 8192, 8192, Precision.FP8, 1434),  # measured, 2 x H100, row-wise scales
        (1024, 9216, 14336, Precision.FP8, 1403),  # ml-engineering, H100
    ],
)
def test_short_benchmarks_are_faster_by_what_power_takes_from_long_runs(
    h100: ClusterSpec, m: int, n: int, k: int, precision: Precision, published_tflops: float
) -> None:
    timing = operator_timing(GemmWork(m=m, n=n, k=k, precision=precision), h100)
    assert 0.85 < 2e-12 * m * n * k / timing.time_s / published_tflops < 1.0


@pytest.mark.parametrize(("accumulates_fp32", "measured_tflops"), [(False, 634), (True, 549)])
def test_weight_gradients_wait_for_their_output(
    h100: ClusterSpec, accumulates_fp32: bool, measured_tflops: float
) -> None:
    """The four weight gradients of a GPT-3 175B layer at TP 4 and 2,048 tokens, measured like the products above."""
    shapes = ((9216, 12288), (12288, 3072), (12288, 12288), (12288, 12288))
    works = [GemmWork(m=m, n=n, k=2048, direction=Pass.WGRAD, accumulates_fp32=accumulates_fp32) for m, n in shapes]
    time_s = sum(operator_timing(work, h100).time_s for work in works)
    flops = sum(2 * work.m * work.n * work.k for work in works)
    assert flops / time_s / 1e12 == pytest.approx(measured_tflops, rel=0.07)


def test_head_sizes_without_a_kernel_cost_the_next_one(h100: ClusterSpec) -> None:
    sizes = {dim: operator_timing(causal(8192, backward=False, head_dim=dim), h100).time_s for dim in (80, 96, 128)}
    assert sizes[80] == pytest.approx(sizes[128])
    fa2 = AttentionBackend.FA2
    assert operator_timing(causal(8192, backward=False, head_dim=80), h100, attention_backend=fa2).time_s == (
        pytest.approx(operator_timing(causal(8192, backward=False, head_dim=96), h100, attention_backend=fa2).time_s)
    )


def test_fp8_products_agree_with_deepgemm_on_the_whole(h100: ClusterSpec) -> None:
    """All six shapes of m = 4,096 that DeepGEMM publishes for H800; n = 2,112 fits no tile, k = 512 is short."""
    published = {
        (2112, 7168): 1127,
        (24576, 1536): 1212,
        (32768, 512): 775,
        (7168, 16384): 1520,
        (4096, 7168): 1410,
        (7168, 2048): 1168,
    }
    errors = []
    for (n, k), tflops in published.items():
        time_s = operator_timing(GemmWork(m=4096, n=n, k=k, precision=Precision.FP8), h100).time_s
        errors.append(2e-12 * 4096 * n * k / time_s / tflops - 1.0)
    assert abs(sum(errors)) / len(errors) < 0.10
    assert max(abs(error) for error in errors) < 0.25


@pytest.mark.parametrize(("num_groups", "rows", "measured_tflops"), [(8, 4096, 690), (32, 512, 629), (128, 256, 569)])
def test_grouped_products_are_within_an_eighth_of_measured_ones(
    h100: ClusterSpec, num_groups: int, rows: int, measured_tflops: float
) -> None:
    work = GroupedGemmWork(num_groups=num_groups, rows=num_groups * rows, n=2048, k=7168)
    flops = 2 * work.rows * work.n * work.k
    assert flops / operator_timing(work, h100).time_s / 1e12 == pytest.approx(measured_tflops, rel=0.125)


def test_few_rows_an_expert_make_the_gradient_traffic_the_limit(h100: ClusterSpec) -> None:
    work = GroupedGemmWork(num_groups=32, rows=32 * 64, n=2048, k=7168, direction=Pass.WGRAD, accumulates_fp32=True)
    traffic_s = 8 * 32 * 2048 * 7168 / h100.gpu.copy_bytes_per_s
    assert operator_timing(work, h100).time_s > traffic_s
    fp8 = operator_timing(GemmWork(m=8192, n=8192, k=8192, precision=Precision.FP8), h100)
    assert fp8.time_s < operator_timing(GemmWork(m=8192, n=8192, k=8192), h100).time_s


@pytest.mark.parametrize(
    ("backend", "backward", "measured_tflops"),
    [("cudnn", False, 520), ("cudnn", True, 459), ("fa2", False, 259), ("fa2", True, 223)],
)
def test_attention_is_near_what_another_gpu_reached(
    h100: ClusterSpec, backend: str, backward: bool, measured_tflops: float
) -> None:
    """Another H100 SXM on another day, heads side by side in memory; the profile has them by tokens.

    FA2 alone reached 300 and 274 there; it draws little power, and inside a layer the clocks are 0.864 and 0.815 of
    those that it takes alone (benchmarks/operator_clocks.json).
    """
    work = causal(8192, backward=backward)
    timing = operator_timing(work, h100, attention_backend=AttentionBackend(backend))
    assert attention_flops(work) / timing.time_s / 1e12 == pytest.approx(measured_tflops, rel=0.18)
    assert timing.basis is Basis.MEASURED


def test_short_causal_sequences_are_less_efficient(h100: ClusterSpec) -> None:
    rates = [
        attention_flops(causal(s, backward=False)) / operator_timing(causal(s, backward=False), h100).time_s
        for s in (512, 1024, 2048, 4096, 8192)
    ]
    assert rates == sorted(rates)


def test_an_ampere_gpu_has_no_fp8_and_no_cudnn_curve() -> None:
    a100 = load_cluster("a100")
    with pytest.raises(ProfileError, match="no table for fp8"):
        operator_timing(GemmWork(m=128, n=128, k=128, precision=Precision.FP8), a100)
    with pytest.raises(ProfileError, match="cudnn"):
        operator_timing(causal(2048, backward=False), a100, attention_backend=AttentionBackend.CUDNN)
    assert operator_timing(causal(2048, backward=False), a100).time_s > 0.0


def test_memory_bound_kernels_in_eager_code_and_fused(h100: ClusterSpec) -> None:
    work = MemoryWork(kernel=MemoryKernel.ACTIVATION, read_bytes=2e9, write_bytes=1e9)
    eager = operator_timing(work, h100, fused_kernels=False).time_s
    assert 3e9 / eager == pytest.approx(1.83e12, rel=0.1)  # SwiGLU, measured on another H100
    assert operator_timing(work, h100).time_s < eager


def test_small_kernels_cost_their_start(h100: ClusterSpec) -> None:
    """Choosing experts moves next to nothing and takes four kernels and more."""
    work = MemoryWork(kernel=MemoryKernel.ROUTER, read_bytes=1e6, write_bytes=1e5, num_kernels=4)
    assert 15e-6 < operator_timing(work, h100).time_s < 60e-6


def test_a_backward_has_its_own_line_where_it_was_measured(h100: ClusterSpec) -> None:
    forward = MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1e9, write_bytes=1e9)
    backward = MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1e9, write_bytes=1e9, backward=True)
    assert operator_timing(backward, h100).time_s > 1.3 * operator_timing(forward, h100).time_s
    a100 = load_cluster("a100")
    assert operator_timing(backward, a100) == operator_timing(forward, a100)


def test_custom_kernels_count_where_they_run_and_are_measured(h100: ClusterSpec) -> None:
    """8,192 tokens of Qwen3-30B-A3B to 65,536 rows: benchmarks/kernels.json has 112.5 us for the kernel."""
    tokens, rows = 8192 * 2048 * 2.0, 65_536 * 2048 * 2.0
    custom = CustomWork(kernel=CustomKernel.PERMUTE, num_bytes=tokens + rows)
    work = MemoryWork(kernel=MemoryKernel.PERMUTE, read_bytes=rows, write_bytes=rows, custom=custom)
    plain = MemoryWork(kernel=MemoryKernel.PERMUTE, read_bytes=rows, write_bytes=rows)
    timing = operator_timing(work, h100, custom_kernels=True)
    assert timing.time_s == pytest.approx(112.5e-6, rel=0.03)
    assert timing.basis is Basis.INTERPOLATED
    assert operator_timing(work, h100) == operator_timing(plain, h100)
    assert operator_timing(plain, h100, custom_kernels=True) == operator_timing(plain, h100)
    unmeasured = load_cluster("a100")
    assert unmeasured.profile.custom_kernels == ()
    assert operator_timing(work, unmeasured, custom_kernels=True) == operator_timing(plain, unmeasured)


def collective_us(cluster: ClusterSpec, collective: Collective, num_bytes: float, size: int, ranks: int) -> float:
    work = CollectiveWork(collective=collective, num_bytes=num_bytes, group=Group(size=size, ranks_per_node=ranks))
    return operator_timing(work, cluster).time_s * 1e6


@pytest.mark.parametrize(
    ("collective", "measured_us"),
    [
        (Collective.ALL_GATHER, 1400),
        (Collective.REDUCE_SCATTER, 1400),
        (Collective.ALL_TO_ALL, 1480),
        (Collective.ALL_REDUCE, 2110),
    ],
)
def test_collectives_of_512_mib_inside_a_node(h100: ClusterSpec, collective: Collective, measured_us: float) -> None:
    assert collective_us(h100, collective, 2**29, 8, 8) == pytest.approx(measured_us, rel=0.04)


def test_collectives_between_nodes_against_published_ones() -> None:
    cluster = load_cluster("h100", num_gpus=1024)
    # 64 GPUs, 8 GiB, CoreWeave (with switch reduction, which is 5 % faster than rings); 32 GPUs, NCCL slides.
    assert collective_us(cluster, Collective.ALL_REDUCE, 2**33, 64, 8) == pytest.approx(43980, rel=0.08)
    ring_us = collective_us(cluster, Collective.ALL_REDUCE, 2**33, 32, 8)
    assert 2 * 2**33 * 31 / 32 / ring_us / 1e3 == pytest.approx(370, rel=0.03)
    pairs_us = collective_us(cluster, Collective.ALL_TO_ALL, 2**33, 32, 8)
    assert 2**33 * 31 / 32 / pairs_us / 1e3 == pytest.approx(48, rel=0.03)
    # Two nodes with 50 GB/s a GPU, nccl-tests on AWS p5, 8 GiB: limited by the node's switches.
    assert collective_us(cluster, Collective.ALL_REDUCE, 2**33, 16, 8) == pytest.approx(33605, rel=0.06)


def test_a_narrower_link_costs_what_deepep_reports() -> None:
    h800 = load_cluster("h800", num_gpus=1440)
    time_us = collective_us(h800, Collective.ALL_GATHER, 2**30, 8, 8)
    assert 2**30 * 7 / 8 / time_us / 1e3 == pytest.approx(160, rel=0.04)


def test_groups_of_one_cost_nothing(h100: ClusterSpec) -> None:
    for collective in Collective:
        assert collective_us(h100, collective, 1e9, 1, 1) == 0.0


def test_host_time_counts_kernels(h100: ClusterSpec) -> None:
    forward, backward = causal(512, backward=False), causal(512, backward=True)
    assert (num_kernels(forward), num_kernels(backward)) == (1, 3)
    launch = h100.profile.launch
    assert host_time_s(backward, h100.profile, cuda_graphs=False) == pytest.approx(3 * launch.eager_s)
    assert host_time_s(backward, h100.profile, cuda_graphs=True) == pytest.approx(3 * launch.cuda_graph_s)
    several = MemoryWork(kernel=MemoryKernel.PERMUTE, read_bytes=1.0, write_bytes=1.0, num_kernels=4)
    assert num_kernels(several) == 4
    alone = CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=1.0, group=Group(size=1, ranks_per_node=1))
    assert num_kernels(alone) == 0


def test_basis_says_measured_interpolated_extrapolated(h100: ClusterSpec) -> None:
    def basis(m: int, n: int, k: int, cluster: ClusterSpec = h100) -> Basis:
        return operator_timing(GemmWork(m=m, n=n, k=k), cluster).basis

    assert basis(4096, 4096, 4096) is Basis.MEASURED
    assert basis(4096, 5000, 4096) is Basis.INTERPOLATED
    assert basis(4096, 200_000, 4096) is Basis.EXTRAPOLATED
    assert basis(4096, 4096, 4096, load_cluster("h20")) is Basis.EXTRAPOLATED


def test_what_was_measured_holds_below_a_power_limit_too() -> None:
    """Sums in FP32 take as much longer than the forward product as they were measured to, within a tenth."""
    measured = load_cluster("h100")
    limited = msgspec.structs.replace(measured, profile=load_profile("h100-hbm2e"))
    forward = GemmWork(m=16384, n=4096, k=2048)
    sums = msgspec.structs.replace(forward, direction=Pass.WGRAD, accumulates_fp32=True)
    ratios = [operator_timing(sums, one).time_s / operator_timing(forward, one).time_s for one in (measured, limited)]
    assert ratios[1] == pytest.approx(ratios[0], rel=0.1)


def test_sums_that_nobody_measured_take_their_traffic_on_top(h100: ClusterSpec) -> None:
    bare = msgspec.structs.replace(h100, profile=msgspec.structs.replace(h100.profile, gemm_variants=()))
    work = GemmWork(m=16384, n=4096, k=2048)
    sums = msgspec.structs.replace(work, accumulates_fp32=True)
    plain, more = (operator_timing(one, bare) for one in (work, sums))
    assert more.time_s - plain.time_s == pytest.approx(0.6 * 6 * 16384 * 4096 / h100.gpu.copy_bytes_per_s)
    assert (plain.basis, more.basis) == (Basis.MEASURED, Basis.INTERPOLATED)


def test_of_a_law_carried_over_the_rate_changes_alone() -> None:
    """Reading a matrix for one row takes the same share of the copy speed as on the GPU where the law was measured."""
    shares = []
    for name in ("h100", "h20"):
        profile = load_profile(name)
        cluster = msgspec.structs.replace(load_cluster("h100"), profile=profile)
        least_s = 2 * 65536 * 16384 / profile.gpu.copy_bytes_per_s
        shares.append(least_s / operator_timing(GemmWork(m=8, n=65536, k=16384), cluster).time_s)
    assert shares[1] == pytest.approx(shares[0], rel=0.05)
