"""Schema, fake kernel and autograd of `torch.ops.meshwright.route`, and its gradient against finite differences."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from meshwright.kernels.route.library import route_op

GROUPS = ((1, 1), (4, 2))


@pytest.mark.parametrize(("score", "normalize", "groups"), list(product(("softmax", "sigmoid"), (True, False), GROUPS)))
def test_gradients_are_right(score: str, normalize: bool, groups: tuple[int, int]) -> None:
    logits = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bias = torch.linspace(0, 0.1, 12, dtype=torch.float64)

    def weights_and_sums(x: Tensor) -> list[Tensor]:
        found: tuple[Tensor, ...] = torch.ops.meshwright.route(x, bias, 3, score, normalize, 1.5, *groups)
        return list(found[:2])

    assert torch.autograd.gradcheck(weights_and_sums, (logits,))


@pytest.mark.parametrize(("bias", "tokens"), [(None, 6), (torch.zeros(16), 6), (None, 0)])
def test_the_operator_is_registered_soundly(bias: Tensor | None, tokens: int) -> None:
    opcheck(route_op, (torch.randn(tokens, 16, requires_grad=True), bias, 3, "sigmoid", True, 2.5, 4, 2))
