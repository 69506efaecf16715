"""An update is torch's clipping and AdamW, and a cast."""

from __future__ import annotations

import pytest
import torch

from meshwright.executor.layer.functions.sums import WIDTH
from meshwright.executor.state.adamw import UpdatedTensors, UpdateNumbers, update, updated

BETAS, EPSILON, DECAY, MAX_NORM = (0.9, 0.95), 1e-8, 0.1, 1.0
LENGTH = 6 * WIDTH


def _numbers(step: int, rate: float, norm: float) -> UpdateNumbers:
    return UpdateNumbers(
        scale=min(1.0, MAX_NORM / (norm + 1e-6)),
        learning_rate=rate,
        weight_decay=DECAY,
        number=step,
        betas=BETAS,
        epsilon=EPSILON,
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
        update(tensors, gradient, _numbers(step, rate, float(norm)))
    return tensors, theirs.detach()


def test_masters_are_those_of_torch() -> None:
    tensors, expected = _run("cpu", torch.float64)
    torch.testing.assert_close(tensors.master_N, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(tensors.weights_N, tensors.master_N.to(torch.bfloat16))


def test_compiled_it_is_the_same_for_new_numbers_and_lengths() -> None:
    fast = torch.compile(updated, fullgraph=True, backend="aot_eager")
    for step, num_rows in enumerate((2, 3, 5, 3), start=1):
        tensors = [torch.rand(num_rows, WIDTH, dtype=torch.float64) for _ in range(5)]
        tensors[3] = tensors[3].to(torch.bfloat16)
        expected = [tensor.clone() for tensor in tensors]
        numbers = _numbers(step, 0.1 / step, 2.0).changing(tensors[0])
        fast(tuple(tensors), numbers, BETAS, EPSILON)
        updated(tuple(expected), numbers, BETAS, EPSILON)
        for own, other in zip(tensors, expected, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-13, atol=1e-13)


def test_what_is_compiled_is_what_torch_fuses() -> None:
    tensors = [torch.rand(2, WIDTH, dtype=torch.float64) for _ in range(5)]
    tensors[3] = tensors[3].to(torch.bfloat16)
    master, mean, mean_square, weights, gradient = (tensor.clone().flatten() for tensor in tensors)
    numbers = _numbers(3, 0.01, 2.0)
    updated(tuple(tensors), numbers.changing(tensors[0]), BETAS, EPSILON)
    update(
        UpdatedTensors(master_N=master, mean_N=mean, mean_square_N=mean_square, weights_N=weights), gradient, numbers
    )
    for own, other in zip(tensors, (master, mean, mean_square, weights), strict=False):
        torch.testing.assert_close(own.flatten(), other, rtol=1e-13, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_masters_are_those_of_torch() -> None:
    tensors, expected = _run("cuda", torch.float32)
    torch.testing.assert_close(tensors.master_N, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(tensors.weights_N, tensors.master_N.to(torch.bfloat16))
