"""Attention with a scale of its own: the formula against torch's, kernels of a GPU against the formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.executor.layer.functions import attention_formula, attention_kernels

SCALE = 0.3
KERNELS = {
    "cudnn": (attention_kernels.cudnn, attention_kernels.cudnn_backward),
    "fa2": (attention_kernels.fa2, attention_kernels.fa2_backward),
}


def _operands(
    device: str, dtype: torch.dtype, key_width: int, value_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries of four heads, keys and values of two, and the gradient of the output."""
    generator = torch.Generator().manual_seed(2)

    def random(num_heads: int, width: int) -> Tensor:
        return torch.randn((2, num_heads, 64, width), generator=generator).to(device, dtype)

    return random(4, key_width), random(2, key_width), random(2, value_width), random(4, value_width)


def test_the_formula_is_that_of_torch() -> None:
    query, key, value, grad = _operands("cpu", torch.float64, 16, 8)
    leaves = [operand.clone().requires_grad_() for operand in (query, key, value)]
    expected = F.scaled_dot_product_attention(
        leaves[0], leaves[1], leaves[2], is_causal=True, scale=SCALE, enable_gqa=True
    )
    expected.backward(grad)
    out, sums = attention_formula.attention(query, key, value, SCALE)
    torch.testing.assert_close(out, expected.detach())
    gradients = attention_formula.attention_backward(grad, query, key, value, out, sums, SCALE)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        torch.testing.assert_close(gradient, leaf.grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("widths", [(128, 128), (192, 128)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_take_the_scale(kernel: str, widths: tuple[int, int]) -> None:
    forward, backward = KERNELS[kernel]
    query, key, value, grad = _operands("cuda", torch.bfloat16, *widths)
    out, sums, state = forward(query, key, value, SCALE)
    gradients = backward(grad, query, key, value, out, sums, state, SCALE)
    query, key, value, grad = (operand.float() for operand in (query, key, value, grad))
    expected, sums = attention_formula.attention(query, key, value, SCALE)
    truth = attention_formula.attention_backward(grad, query, key, value, expected, sums, SCALE)
    for own, right in zip((out, *gradients), (expected, *truth), strict=True):
        assert (own.float() - right).norm() / right.norm() < 2e-2
