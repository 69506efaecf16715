from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.tensors import check_shape, why_not_rows

ROWS = torch.zeros(4, 64)


@pytest.mark.parametrize("rows", [ROWS, ROWS[:, :32], ROWS[:, 32:], ROWS.bfloat16(), ROWS[1:]])
def test_rows_of_whole_vectors_are_taken(rows: Tensor) -> None:
    assert why_not_rows("x", rows) is None


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (ROWS.half(), "x is torch.float16, CUDA kernels take bfloat16 and float32"),
        (torch.zeros(2, 6), "x has rows of 24 bytes, expected a multiple of 16"),
        (ROWS[:, 2:34], "strides"),
        (ROWS.t(), "strides"),
        (torch.zeros(2, 66)[:, :64], "strides"),
    ],
    ids=["format", "width", "start", "turned", "stride"],
)
def test_others_are_not_and_why_is_said(rows: Tensor, reason: str) -> None:
    assert reason in (why_not_rows("x", rows) or "")


def test_a_wrong_shape_names_tensor_and_both_shapes() -> None:
    with pytest.raises(KernelInputError, match=r"permute: rows has shape \(4, 64\), expected \(4, 32\)"):
        check_shape("permute", "rows", ROWS, (4, 32))
