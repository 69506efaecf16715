from __future__ import annotations

import pytest
import torch

from meshwright.executor.state.shared_parts import norm_of


def test_a_long_sum_in_float32_keeps_its_digits() -> None:
    values = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    found = norm_of(values)
    assert found.dtype is torch.float64
    assert float(found) == pytest.approx(float(values.double().norm()), rel=1e-12)


def test_nothing_has_no_norm() -> None:
    assert float(norm_of(torch.empty(0))) == 0.0
