from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.alone import timing
from meshwright.costmodel.hardware import Basis
from meshwright.costmodel.program.operators import AttentionWork
from meshwright.costmodel.runtime import RuntimeSpec
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
