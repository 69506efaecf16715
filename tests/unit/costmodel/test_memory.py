from __future__ import annotations

import pytest

from meshwright.costmodel.formulas.memory import (
    gradient_bytes,
    host_update_s,
    memory_limit_bytes,
    optimizer_bytes,
    optimizer_traffic_bytes,
    parameter_bytes,
)

SHARDED_FROM = {"parameters": 3, "gradients": 2, "optimizer": 1}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_zero_shards_one_more_kind_a_stage(stage: int) -> None:
    """Rajbhandari et al., figure 1: with 7.5e9 parameters on 64 GPUs 120, 31.4, 16.6 and 1.9 GB (BF16 gradients)."""
    total = (
        parameter_bytes(7.5e9, stage, 64)
        + gradient_bytes(7.5e9, stage, 64, fp32=False)
        + optimizer_bytes(7.5e9, stage, 64)
    )
    assert total / 1e9 == pytest.approx((120.0, 31.4, 16.6, 1.9)[stage], abs=0.05)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_update_reads_and_writes_its_own_shard(stage: int) -> None:
    read, written = optimizer_traffic_bytes(64.0, stage, 8)
    assert (read, written) == ((1024.0, 896.0) if stage == 0 else (128.0, 112.0))


def test_gradients_add_up_in_fp32_or_bf16() -> None:
    assert gradient_bytes(10.0, 1, 8, fp32=True) == 2 * gradient_bytes(10.0, 1, 8, fp32=False) == 40.0


def test_a_nodes_gpus_share_its_cpus() -> None:
    alone = host_update_s(1e9, gpus_per_node=1, pcie_bytes_per_s=50e9, gradient_bytes_each=2)
    shared = host_update_s(1e9, gpus_per_node=8, pcie_bytes_per_s=50e9, gradient_bytes_each=2)
    assert alone == pytest.approx(0.08 + 1 / 3.9)
    assert shared - alone == pytest.approx(7 / 3.9)


def test_the_limit_leaves_buffers_and_fragmentation() -> None:
    assert memory_limit_bytes(80e9) == pytest.approx(0.97 * 80e9 - 1.5 * 2**30)
