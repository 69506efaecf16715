"""Laws every operator time obeys, whatever the shape."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.formulas.attention import attention_bytes, attention_flops
from meshwright.costmodel.formulas.matmul import gemm_bytes, gemm_flops, grouped_gemm_bytes
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Pass,
    Precision,
    Work,
)
from meshwright.hardware_profiles import load_cluster, preset_names

CLUSTERS = {name: load_cluster(name, num_gpus=1024) for name in preset_names()}
cluster_names = st.sampled_from(sorted(CLUSTERS))  # names: a profile prints as thousands of numbers
sides = st.integers(1, 200_000)
num_bytes = st.floats(1.0, 1e11)


@st.composite
def gemms(draw: st.DrawFn) -> GemmWork:
    return GemmWork(m=draw(sides), n=draw(sides), k=draw(sides), accumulates_fp32=draw(st.booleans()))


@st.composite
def grouped_gemms(draw: st.DrawFn) -> GroupedGemmWork:
    return GroupedGemmWork(
        num_groups=draw(st.integers(1, 256)),
        rows=draw(st.floats(1.0, 1e6)),
        n=draw(st.integers(1, 30_000)),
        k=draw(st.integers(1, 30_000)),
        direction=draw(st.sampled_from(Pass)),
        accumulates_fp32=draw(st.booleans()),
    )


@st.composite
def attentions(draw: st.DrawFn) -> AttentionWork:
    query_len, key_len = draw(st.integers(1, 200_000)), draw(st.integers(1, 200_000))
    heads = draw(st.integers(1, 128))
    return AttentionWork(
        batch=draw(st.integers(1, 8)),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=draw(st.integers(16, 256)),
        value_head_dim=draw(st.integers(16, 256)),
        query_len=query_len,
        key_len=key_len,
        pairs=query_len * key_len * draw(st.sampled_from((0.05, 0.5, 1.0))),
        backward=draw(st.booleans()),
    )


@st.composite
def groups(draw: st.DrawFn) -> Group:
    ranks = draw(st.sampled_from((1, 2, 4, 8)))
    return Group(size=ranks * draw(st.sampled_from((1, 2, 3, 8, 64, 128))), ranks_per_node=ranks)


@st.composite
def collectives(draw: st.DrawFn) -> CollectiveWork:
    return CollectiveWork(collective=draw(st.sampled_from(Collective)), num_bytes=draw(num_bytes), group=draw(groups()))


memories = st.builds(MemoryWork, kernel=st.sampled_from(MemoryKernel), read_bytes=num_bytes, write_bytes=num_bytes)


def seconds(work: Work, cluster: ClusterSpec) -> float:
    return operator_timing(work, cluster).time_s


@given(gemms(), cluster_names)
def test_products_never_beat_peak_or_memory(work: GemmWork, name: str) -> None:
    cluster = CLUSTERS[name]
    time_s = seconds(work, cluster)
    assert time_s >= gemm_flops(work.m, work.n, work.k) / cluster.gpu.bf16_flops_per_s
    assert time_s >= gemm_bytes(work) / cluster.gpu.memory_bytes_per_s
    assert time_s >= cluster.profile.launch.kernel_floor_s


@given(grouped_gemms(), cluster_names)
def test_grouped_products_never_beat_peak_or_memory(work: GroupedGemmWork, name: str) -> None:
    cluster = CLUSTERS[name]
    time_s = seconds(work, cluster)
    assert time_s >= 2 * work.rows * work.n * work.k / cluster.gpu.bf16_flops_per_s * (1 - 1e-12)
    assert time_s >= grouped_gemm_bytes(work) / cluster.gpu.memory_bytes_per_s


@given(attentions(), cluster_names)
def test_attention_never_beats_peak_or_memory(work: AttentionWork, name: str) -> None:
    cluster = CLUSTERS[name]
    time_s = seconds(work, cluster)
    assert time_s >= attention_flops(work) / cluster.gpu.bf16_flops_per_s
    assert time_s >= attention_bytes(work) / cluster.gpu.memory_bytes_per_s


@given(memories, cluster_names)
def test_memory_bound_kernels_never_beat_memory(work: MemoryWork, name: str) -> None:
    cluster = CLUSTERS[name]
    assert seconds(work, cluster) >= (work.read_bytes + work.write_bytes) / cluster.gpu.memory_bytes_per_s


@given(gemms(), cluster_names, st.integers(1, 5000), st.sampled_from(("m", "n", "k")))
def test_a_larger_product_is_hardly_ever_faster(work: GemmWork, name: str, more: int, side: str) -> None:
    """The table is monotone; between its points, where compute and memory change places, a tenth is left (A100)."""
    cluster = CLUSTERS[name]
    larger = msgspec.structs.replace(work, **{side: getattr(work, side) + more})
    assert seconds(larger, cluster) >= 0.88 * seconds(work, cluster)


@given(st.one_of(gemms(), grouped_gemms(), attentions(), memories), cluster_names, st.floats(1.0, 10.0))
def test_more_memory_bandwidth_is_never_slower(work: Work, name: str, factor: float) -> None:
    cluster = CLUSTERS[name]
    gpu = cluster.gpu
    faster = with_gpu(
        cluster,
        memory_bytes_per_s=gpu.memory_bytes_per_s * factor,
        copy_bytes_per_s=gpu.copy_bytes_per_s * factor,
    )
    assert seconds(work, faster) <= seconds(work, cluster) * (1 + 1e-12)


@given(st.one_of(gemms(), grouped_gemms(), attentions()), cluster_names, st.floats(1.0, 10.0))
def test_more_flops_are_never_slower(work: Work, name: str, factor: float) -> None:
    cluster = CLUSTERS[name]
    faster = with_gpu(cluster, bf16_flops_per_s=cluster.gpu.bf16_flops_per_s * factor)
    assert seconds(work, faster) <= seconds(work, cluster) * (1 + 1e-12)


@given(collectives(), cluster_names, st.floats(1.0, 10.0))
def test_more_link_bandwidth_is_never_slower(work: CollectiveWork, name: str, factor: float) -> None:
    cluster = CLUSTERS[name]
    network = msgspec.structs.replace(cluster, network_bytes_per_s=cluster.network_bytes_per_s * factor)
    nvlink = with_gpu(cluster, nvlink_bytes_per_s=cluster.gpu.nvlink_bytes_per_s * factor)
    assert seconds(work, network) <= seconds(work, cluster) * (1 + 1e-9)
    assert seconds(work, nvlink) <= seconds(work, cluster) * (1 + 1e-9)


@given(collectives(), cluster_names, st.floats(1.0, 4.0))
def test_oversubscription_and_latency_never_help(work: CollectiveWork, name: str, factor: float) -> None:
    cluster = CLUSTERS[name]
    time_s = seconds(work, cluster)
    for worse in (
        msgspec.structs.replace(cluster, oversubscription=factor),
        msgspec.structs.replace(cluster, network_latency_s=cluster.network_latency_s * factor),
        msgspec.structs.replace(cluster, nvlink_latency_s=cluster.nvlink_latency_s * factor),
    ):
        assert seconds(work, worse) >= time_s


@given(collectives(), cluster_names, st.floats(1.0, 100.0))
def test_collectives_grow_with_bytes(work: CollectiveWork, name: str, factor: float) -> None:
    cluster = CLUSTERS[name]
    larger = msgspec.structs.replace(work, num_bytes=work.num_bytes * factor)
    assert seconds(larger, cluster) >= seconds(work, cluster) * (1 - 1e-9)


@given(memories, cluster_names, st.floats(1.0, 100.0))
def test_memory_bound_kernels_grow_with_bytes(work: MemoryWork, name: str, factor: float) -> None:
    cluster = CLUSTERS[name]
    larger = msgspec.structs.replace(work, read_bytes=work.read_bytes * factor)
    assert seconds(larger, cluster) >= seconds(work, cluster)


@pytest.mark.parametrize("name", sorted(set(preset_names()) - {"a100"}))
def test_fp8_products_never_beat_their_peak(name: str) -> None:
    cluster = CLUSTERS[name]
    for m in (100, 4096, 100_000):
        time_s = seconds(GemmWork(m=m, n=7168, k=4096, precision=Precision.FP8), cluster)
        assert time_s >= gemm_flops(m, 7168, 4096) / cluster.gpu.fp8_flops_per_s


def with_gpu(cluster: ClusterSpec, **changes: float) -> ClusterSpec:
    gpu = msgspec.structs.replace(cluster.gpu, **changes)
    return msgspec.structs.replace(cluster, profile=msgspec.structs.replace(cluster.profile, gpu=gpu))
