from __future__ import annotations

import pytest
import torch

from meshwright.kernels.checking.finding import twice
from meshwright.kernels.checking.poison import poisoned_outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_fresh_memory_is_nan(dtype: torch.dtype) -> None:
    with poisoned_outputs():
        assert torch.empty(3, dtype=dtype).float().isnan().all()
        assert torch.zeros(1, dtype=dtype).new_empty(3).float().isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_two_different_runs_are_noticed() -> None:
    counter = iter(range(2))
    _, finding = twice("counting", "any", lambda: (torch.full((1,), next(counter)),))
    assert not finding.is_right
