"""Rows in 8 bits come back as near as three bits of mantissa allow."""

from __future__ import annotations

import pytest
import torch

from meshwright.executor.layer.functions.fp8_rows import LARGEST, ROOM_BYTES, packed, summed_rows, unpacked

NEAREST = 2.0**-4
"""Of a number: half of the last of three bits behind the first."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_numbers_come_back_within_half_of_the_last_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = (torch.rand(50, 24) + 0.5).to(dtype) * torch.logspace(-20, 20, 50).unsqueeze(1).to(dtype)
    rows = torch.where(torch.rand(rows.shape) < 0.5, -rows, rows)
    found = unpacked(packed(rows))
    assert ((found.double() - rows.double()).abs() <= NEAREST * rows.double().abs()).all()


def test_what_a_scale_can_say_comes_back_exactly() -> None:
    rows = torch.tensor([[LARGEST, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(unpacked(packed(rows)), rows)


def test_numbers_and_scale_lie_in_one_row_of_bytes() -> None:
    found = packed(torch.randn(3, 32))
    assert found.dtype is torch.uint8
    assert found.shape == (3, 32 + ROOM_BYTES)
    assert packed(torch.empty(0, 32)).shape == (0, 32 + ROOM_BYTES)


def test_parts_are_summed_in_fp32() -> None:
    parts = torch.tensor([[256.0], [1.0], [1.0], [256.0], [1.0], [1.0]])
    found = summed_rows(packed(parts), 6, torch.float32)
    assert found.tolist() == [[516.0]]
    assert summed_rows(packed(parts), 1, torch.bfloat16).shape == (6, 1)
