from __future__ import annotations

import math

import pytest
import torch

from meshwright.kernels.checking.error import LIMITS, same_bits, worst_row_error


def test_one_wrong_row_among_many_shows() -> None:
    truth = torch.ones(10_000, 4)
    found = truth.clone()
    found[1234] = 0
    assert worst_row_error(found, truth) == pytest.approx(1.0)


def test_a_row_of_zeros_is_measured_by_a_typical_row() -> None:
    truth = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert worst_row_error(truth + torch.tensor([[0.0, 0.1], [0.0, 0.0]]), truth) == pytest.approx(
        0.1 / math.sqrt(12.5)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_infinitely_wrong(bad: float) -> None:
    assert worst_row_error(torch.tensor([1.0, bad]), torch.tensor([1.0, 2.0])) == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_within_its_format_and_no_coarser_one(dtype: torch.dtype) -> None:
    truth = torch.randn(1000, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert 0 < worst_row_error(truth.to(dtype), truth) <= LIMITS[dtype]
    assert worst_row_error(truth.to(torch.bfloat16), truth) > LIMITS[torch.float32]


def test_bits_tell_nan_from_nan_and_zero_from_zero() -> None:
    nan = torch.tensor([float("nan")])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
