"""Gradients added where they lie: every way there is gives the same sum, and an FP32 sum rounds nothing on its way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from meshwright.executor.layer.accumulator import Accumulator
from meshwright.executor.layer.functions import sums

OUT, TOKENS, IN = 128, 64, 192
BF16_ROUNDING, FP32_ROUNDING = 4e-3, 2e-6
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _factors(device: torch.device, dtype: torch.dtype, count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((TOKENS, OUT), (TOKENS, IN))
    return [
        (one.to(device, dtype), other.to(device, dtype))
        for one, other in ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(count))
    ]


def _exact(factors: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([grad.double().t() @ rows.double() for grad, rows in factors]).sum(0)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.bfloat16, BF16_ROUNDING)])
def test_products_of_micro_batches_add_up_and_a_new_step_overwrites(dtype: torch.dtype, limit: float) -> None:
    factors = _factors(torch.device("cpu"), dtype, 3)
    accumulator = Accumulator(torch.full((OUT, IN), float("nan"), dtype=torch.promote_types(dtype, torch.float32)))
    for step in (factors, factors[:1]):
        accumulator.restart()
        for grad, rows in step:
            accumulator.add_product(grad.t(), rows)
        assert _error(accumulator.total, _exact(step)) <= limit


@pytest.mark.parametrize("restarts", [True, False])
def test_products_on_cuda_end_in_the_sum(restarts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, *_: self)  # torch without CUDA copies no fake tensors of it
    with FakeTensorMode():
        total = torch.empty(OUT, IN, device="cuda")
        grad, rows = (torch.empty(TOKENS, size, device="cuda", dtype=torch.bfloat16) for size in (OUT, IN))
        assert sums.has_wide_product(total, grad.t())
        sums.add_product(total, grad.t(), rows, restarts=restarts)
        assert not sums.has_wide_product(total.to(torch.bfloat16), grad.t())


@pytest.mark.parametrize("function", [sums.add, sums.overwrite])
def test_compiled_for_one_length_after_another(function: Callable[[Tensor, Tensor], None]) -> None:
    torch.manual_seed(0)
    fast = torch.compile(function, fullgraph=True, backend="aot_eager")
    for num_rows in (3, 5, 7):
        buffer = torch.randn(2 * num_rows, sums.WIDTH)
        total, expected = buffer[num_rows:], buffer[num_rows:].clone()
        gradient = torch.randn(num_rows, sums.WIDTH).to(torch.bfloat16)
        fast(total, gradient)
        function(expected, gradient)
        assert torch.equal(buffer[num_rows:], expected)


def test_the_sum_of_parts_is_wide() -> None:
    parts = torch.tensor([[256.0] * sums.WIDTH, [1.0] * sums.WIDTH, [1.0] * sums.WIDTH], dtype=torch.bfloat16)
    assert torch.equal(sums.summed(parts, torch.float32), torch.full((sums.WIDTH,), 258.0))


@pytest.mark.gpu
@needs_cuda
def test_on_a_gpu_products_round_once() -> None:
    device = torch.device("cuda")
    factors = _factors(device, torch.bfloat16, 3)
    total = torch.full((OUT, IN), float("nan"), device=device)
    accumulator = Accumulator(total)
    for grad, rows in factors:
        accumulator.add_product(grad.t(), rows)
    assert _error(total, _exact(factors)) <= FP32_ROUNDING


@pytest.mark.gpu
@needs_cuda
def test_on_a_gpu_gradients_of_16_bits_add_up_in_32() -> None:
    torch.manual_seed(0)
    for shape in ((4, 96, 64), (3, 128), (2, 96, 32), (5, 7)):
        gradients = torch.randn(3, *shape, device="cuda", dtype=torch.bfloat16)
        accumulator = Accumulator(torch.full(shape, float("nan"), device="cuda"))
        for gradient in gradients:
            accumulator.add(gradient)
        assert _error(accumulator.total, gradients.double().sum(0)) <= FP32_ROUNDING
    parts = torch.randn(3, 5 * sums.WIDTH, device="cuda", dtype=torch.bfloat16)
    torch.testing.assert_close(sums.summed(parts, torch.float32), parts.float().sum(0))
