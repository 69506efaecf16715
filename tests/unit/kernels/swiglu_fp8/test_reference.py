from __future__ import annotations

import pytest
import torch

from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.swiglu_fp8.contract import LARGEST
from meshwright.kernels.swiglu_fp8.operator import swiglu_fp8
from meshwright.kernels.swiglu_fp8.reference import dequantized, quantized


def test_the_largest_of_each_block_becomes_the_largest_of_the_format() -> None:
    x = torch.randn(3, 256)
    numbers, scales = quantized(x)
    assert scales.shape == (3, 2)
    assert numbers.float().unflatten(1, (2, 128)).abs().amax(-1).eq(LARGEST).all()
    torch.testing.assert_close(dequantized(numbers, scales), x, rtol=2**-4, atol=1e-2)


def test_zeros_stay_zeros() -> None:
    numbers, scales = quantized(torch.zeros(1, 128))
    assert numbers.float().abs().sum() == 0
    assert torch.isfinite(1 / scales).all()


def test_rows_and_columns_come_in_tiles() -> None:
    gate = torch.zeros(130, 128, dtype=torch.bfloat16)
    with pytest.raises(KernelInputError, match=r"gate has shape \(130, 128\), expected multiples of 128"):
        swiglu_fp8(gate, gate)
