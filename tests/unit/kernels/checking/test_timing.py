from __future__ import annotations

import pytest
import torch

from meshwright.kernels.checking.check_all import CHECKS, check_kernel
from meshwright.kernels.checking.timing import CACHES, num_sets, time_works
from meshwright.kernels.dispatch import dispatcher


@pytest.mark.parametrize("set_bytes", [2**18, 2**20, 2**24])
def test_sets_together_exceed_the_cache(set_bytes: int) -> None:
    cache = 50 * 2**20
    assert num_sets(set_bytes, cache) * set_bytes >= min(CACHES * cache, 256 * set_bytes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_takes_as_long_as_its_bytes_ask() -> None:
    works = [lambda: torch.zeros(2**26, device="cuda")] * 2
    assert 2**28 / 10e12 < time_works(works).median_s < 2**28 / 0.1e12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", list(CHECKS))
def test_cuda_kernels_agree_with_float64(kernel: str) -> None:
    wrong = [
        finding for finding in check_kernel(kernel, torch.device("cuda"), torch.Generator()) if not finding.is_right
    ]
    assert wrong == []
    assert any(choice.implementation == "cuda" for choice in dispatcher().record())
