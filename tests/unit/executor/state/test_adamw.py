"""An update in one pass is torch's clipping and AdamW, and a cast."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from meshwright.executor.layer.functions.sums import WIDTH
from meshwright.executor.state import adamw
from meshwright.executor.state.adamw import UpdatedTensors, UpdateNumbers, update, updated

BETAS, EPSILON, DECAY, MAX_NORM = (0.9, 0.95), 1e-8, 0.1, 1.0
LENGTH = 6 * WIDTH


def _numbers(step: int, rate: float, norm: float) -> UpdateNumbers:
    first, second = (1.0 - beta**step for beta in BETAS)
    return UpdateNumbers(
        scale=min(1.0, MAX_NORM / (norm + 1e-6)),
        decay=rate * DECAY,
        step_size=rate / first,
        spread=1.0 / sqrt(second),
    )


def _run(device: str, dtype: torch.dtype) -> tuple[UpdatedTensors, torch.Tensor]:
    """Ours, and the master weights of torch's, after four steps."""
    generator = torch.Generator().manual_seed(0)
    begin = torch.randn(LENGTH, generator=generator, dtype=dtype).to(device)
    theirs = torch.nn.Parameter(begin.clone())
    optimizer = torch.optim.AdamW([theirs], betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    tensors = UpdatedTensors(
        master_N=begin.clone(),
        mean_N=torch.zeros_like(begin),
        mean_square_N=torch.zeros_like(begin),
        weights_N=torch.zeros(LENGTH, dtype=torch.bfloat16, device=device),
    )
    for step, rate in enumerate((0.1, 0.02, 0.003, 0.001), start=1):
        gradient = torch.randn(LENGTH, generator=generator, dtype=dtype).to(device)
        optimizer.param_groups[0]["lr"] = rate
        theirs.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_([theirs], MAX_NORM)
        optimizer.step()
        update(tensors, gradient, _numbers(step, rate, float(norm)), BETAS, EPSILON)
    return tensors, theirs.detach()


@pytest.mark.parametrize("at_once", [LENGTH, 2 * WIDTH, 5 * WIDTH])
def test_masters_are_those_of_torch(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "ELEMENTS_A_THREAD", at_once)
    tensors, expected = _run("cpu", torch.float64)
    torch.testing.assert_close(tensors.master_N, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(tensors.weights_N, tensors.master_N.to(torch.bfloat16))


def test_compiled_it_is_the_same_for_new_numbers_and_lengths() -> None:
    fast = torch.compile(updated, fullgraph=True, backend="aot_eager")
    for step, num_rows in enumerate((2, 3, 5, 3), start=1):
        tensors = [torch.rand(num_rows, WIDTH, dtype=torch.float64) for _ in range(5)]
        tensors[3] = tensors[3].to(torch.bfloat16)
        expected = [tensor.clone() for tensor in tensors]
        numbers = _numbers(step, 0.1 / step, 2.0).on(tensors[0])
        fast(tuple(tensors), numbers, BETAS, EPSILON)
        updated(tuple(expected), numbers, BETAS, EPSILON)
        for own, other in zip(tensors, expected, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-13, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_masters_are_those_of_torch() -> None:
    tensors, expected = _run("cuda", torch.float32)
    torch.testing.assert_close(tensors.master_N, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(tensors.weights_N, tensors.master_N.to(torch.bfloat16))
