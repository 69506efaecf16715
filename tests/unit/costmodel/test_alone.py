from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.alone import alone, timing
from meshwright.costmodel.hardware import Basis
from meshwright.costmodel.program.operators import (
    AttentionWork,
    CustomKernel,
    CustomWork,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Pass,
)
from meshwright.costmodel.runtime import RuntimeSpec, load_runtime, runtime_names
from meshwright.hardware_profiles import load_cluster


def test_a_frameworks_own_attention_takes_a_multiple() -> None:
    cluster, plain = load_cluster("h100", num_gpus=8), RuntimeSpec(name="plain", source="test")
    slow = msgspec.structs.replace(plain, attention_time_factor=2.0)
    work = AttentionWork(
        batch=1,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        value_head_dim=128,
        query_len=8192,
        key_len=8192,
        pairs=8192 * 8193 / 2,
    )
    assert timing(work, cluster, slow).time_s == pytest.approx(2.0 * timing(work, cluster, plain).time_s)
    assert timing(work, cluster, slow).basis is Basis.EXTRAPOLATED


def test_only_our_own_runtimes_have_custom_kernels() -> None:
    ours = ["meshwright", "meshwright-run"]
    assert [name for name in runtime_names() if load_runtime(name).custom_kernels] == ours
    cluster = load_cluster("h100", num_gpus=8)
    custom = CustomWork(kernel=CustomKernel.UNPERMUTE, num_bytes=3e8)
    work = MemoryWork(kernel=MemoryKernel.UNPERMUTE, read_bytes=2.7e8, write_bytes=0.3e8, custom=custom)
    plain = msgspec.structs.replace(work, custom=None)
    for name in runtime_names():
        runtime = load_runtime(name)
        ratio = timing(plain, cluster, runtime).time_s / timing(work, cluster, runtime).time_s
        assert ratio > 2.5 if name in ours else ratio == 1.0


def test_gradients_of_experts_may_be_added_by_a_kernel_of_their_own() -> None:
    cluster, fused = load_cluster("h200", num_gpus=8), RuntimeSpec(name="plain", source="test")
    apart = msgspec.structs.replace(fused, adds_grouped_gradients=True)
    work = GroupedGemmWork(num_groups=128, rows=65536, n=768, k=2048, direction=Pass.WGRAD, accumulates_fp32=True)
    plain = msgspec.structs.replace(work, accumulates_fp32=False)
    added_s = 10 * 128 * 768 * 2048 / cluster.gpu.copy_bytes_per_s  # read 2 and 4 bytes, write 4
    found = timing(work, cluster, apart).time_s
    assert found - timing(plain, cluster, apart).time_s == pytest.approx(added_s, rel=0.02)
    assert found > timing(work, cluster, fused).time_s
    assert timing(plain, cluster, apart) == timing(plain, cluster, fused)
    assert alone(work, cluster, apart).host_s == 2 * alone(work, cluster, fused).host_s
