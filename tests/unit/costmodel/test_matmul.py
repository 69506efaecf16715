"""Products: bytes and FLOPs by hand."""

from __future__ import annotations

import pytest

from meshwright.costmodel.formulas.matmul import (
    gemm_bytes,
    grouped_gemm_bytes,
    grouped_gemm_flops,
    grouped_tiles,
    padded,
    roofline_s,
    sustained_s,
)
from meshwright.costmodel.program.operators import GemmWork, GroupedGemmWork, Pass, Precision


def test_bytes_of_a_product_by_number_format() -> None:
    assert gemm_bytes(GemmWork(m=4, n=5, k=6)) == 2 * (24 + 30 + 20)
    assert gemm_bytes(GemmWork(m=4, n=5, k=6, precision=Precision.FP8)) == 24 + 30 + 2 * 20
    assert gemm_bytes(GemmWork(m=4, n=5, k=6, accumulates_fp32=True)) == 2 * (24 + 30) + 8 * 20


@pytest.mark.parametrize("direction", [Pass.FORWARD, Pass.DGRAD])
def test_a_grouped_product_reads_every_groups_weights(direction: Pass) -> None:
    work = GroupedGemmWork(num_groups=3, rows=30, n=5, k=7, direction=direction)
    assert grouped_gemm_bytes(work) == 2 * 30 * 7 + 2 * 3 * 7 * 5 + 2 * 30 * 5


def test_a_grouped_weight_gradient_writes_every_groups_weights() -> None:
    work = GroupedGemmWork(num_groups=3, rows=30, n=5, k=7, direction=Pass.WGRAD)
    assert grouped_gemm_bytes(work) == 2 * 30 * (7 + 5) + 2 * 3 * 7 * 5
    accumulating = GroupedGemmWork(num_groups=3, rows=30, n=5, k=7, direction=Pass.WGRAD, accumulates_fp32=True)
    assert grouped_gemm_bytes(accumulating) - grouped_gemm_bytes(work) == 6 * 3 * 7 * 5


def test_each_group_is_padded_to_whole_tiles() -> None:
    assert [padded(x) for x in (1, 64, 65)] == [64, 64, 128]
    one_row_each = GroupedGemmWork(num_groups=10, rows=10, n=64, k=100)
    assert grouped_gemm_flops(one_row_each) == 2 * 10 * 64 * 64 * 100


def test_few_rows_or_columns_get_small_tiles() -> None:
    large, small = 128 * 256, 64 * 128
    assert grouped_tiles(GroupedGemmWork(num_groups=4, rows=4 * 160, n=1024, k=512)) == (4 * 2 * 4, large, 512)
    assert grouped_tiles(GroupedGemmWork(num_groups=4, rows=4 * 128, n=1024, k=512)) == (4 * 2 * 8, small, 512)
    assert grouped_tiles(GroupedGemmWork(num_groups=4, rows=4 * 160, n=128, k=512)) == (4 * 3, small, 512)
    in_fp8 = GroupedGemmWork(num_groups=4, rows=4 * 128, n=1024, k=512, precision=Precision.FP8)
    assert grouped_tiles(in_fp8) == (4 * 4, large, 512)


def test_rows_of_a_group_are_the_depth_of_its_weight_gradient_in_whole_steps() -> None:
    work = GroupedGemmWork(num_groups=4, rows=4 * 144, n=1024, k=512, direction=Pass.WGRAD)
    assert grouped_tiles(work) == (4 * 4 * 4, 128 * 256, 192)


def test_roofline_and_sustained_time() -> None:
    assert roofline_s(flops=8.0, num_bytes=1.0, flops_per_s=2.0, bytes_per_s=1.0) == 4.0
    assert sustained_s(roofline=2.0, efficiency=0.5, compute_s=1.0, sustained_fraction=0.2) == 5.0
