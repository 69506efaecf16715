"""Attention: FLOPs, bytes, masks and idle SMs by hand."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.formulas.attention import (
    attention_bytes,
    attention_flops,
    idle_sm_factor,
    is_causal,
    resembled_length,
)
from meshwright.costmodel.program.operators import AttentionWork

WORK = AttentionWork(
    batch=2,
    num_heads=8,
    num_kv_heads=2,
    head_dim=192,
    value_head_dim=128,
    query_len=4096,
    key_len=4096,
    pairs=4096 * 4096 / 2,
)


def test_flops_of_mla_heads_and_backward() -> None:
    forward = 2 * (192 + 128) * (4096 * 4096 / 2) * 2 * 8
    assert attention_flops(WORK) == forward
    assert attention_flops(msgspec.structs.replace(WORK, backward=True)) == 2.5 * forward


def test_grouped_queries_read_fewer_keys() -> None:
    assert attention_bytes(WORK) == 2 * 2 * 4096 * (8 + 2) * (192 + 128)
    assert attention_bytes(msgspec.structs.replace(WORK, backward=True)) == 2 * attention_bytes(WORK)


@pytest.mark.parametrize(
    ("query_len", "key_len", "pairs", "causal", "length"),
    [
        (4096, 4096, 4096 * 4096 / 2, True, 4096),
        (4096, 4096, 4096 * 4096, False, 4096),
        (65536, 65536, 65536 * 1024, True, 1024),  # a sliding window of 1,024 keys
        (1024, 8192, 1024 * 8192 / 2, True, 8192),  # one of 8 context-parallel ranks, balanced
    ],
)
def test_which_measured_length_a_mask_resembles(
    query_len: int, key_len: int, pairs: float, causal: bool, length: float
) -> None:
    work = msgspec.structs.replace(WORK, query_len=query_len, key_len=key_len, pairs=pairs)
    assert is_causal(work) is causal
    assert resembled_length(work) == length


def test_few_blocks_leave_sms_idle() -> None:
    assert idle_sm_factor(WORK, num_sms=132) == 1.0 + 132 / 512  # 512 blocks: half of a longest one overhangs
    assert idle_sm_factor(WORK, num_sms=132, overhang=2.0) == 1.0 + 2 * 132 / 512
    few = msgspec.structs.replace(WORK, batch=1, num_heads=1)
    assert idle_sm_factor(few, num_sms=132) == 2 * 132 / 32
    full = msgspec.structs.replace(few, pairs=4096.0 * 4096)
    assert idle_sm_factor(full, num_sms=132) == 132 / 32
