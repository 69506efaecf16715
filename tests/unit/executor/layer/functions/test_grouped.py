"""The kernel that torch ships is called so that it computes what the loop over experts does."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from meshwright.executor.layer.functions import grouped

SIZES = (3, 0, 8, 1)
WIDTH_IN, WIDTH_OUT = 16, 24


@pytest.fixture
def operands() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, gradients of the product's rows, matrices, ends; one expert has no rows."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sum(SIZES), WIDTH_IN, generator=generator)
    grad = torch.randn(sum(SIZES), WIDTH_OUT, generator=generator)
    weight = torch.randn(len(SIZES), WIDTH_OUT, WIDTH_IN, generator=generator)
    return rows, grad, weight, torch.tensor(SIZES).cumsum(0).to(torch.int32)


def test_the_kernel_agrees_with_the_loop(
    operands: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, grad, weight, ends = operands

    def all_three() -> list[torch.Tensor]:
        return [
            grouped.grouped_forward(rows, weight, ends),
            grouped.grouped_dgrad(grad, weight, ends),
            grouped.grouped_wgrad(grad, rows, ends),
        ]

    looped = all_three()
    monkeypatch.setattr(grouped, "has_kernel", lambda *_: True)
    for own, expected in zip(all_three(), looped, strict=True):
        torch.testing.assert_close(own, expected)


def test_the_kernel_takes_whole_vectors() -> None:
    with FakeTensorMode():
        rows = torch.empty(12, 16, device="cuda", dtype=torch.bfloat16)
    assert grouped.has_kernel(rows, 16, 24)
    assert not grouped.has_kernel(rows, 16, 12)
    assert not grouped.has_kernel(rows.float(), 16, 24)


def test_rows_know_their_group() -> None:
    ends = torch.tensor([3, 3, 11, 12], dtype=torch.int32)
    assert grouped.group_of_rows(ends, 12).tolist() == [0] * 3 + [2] * 8 + [3]
