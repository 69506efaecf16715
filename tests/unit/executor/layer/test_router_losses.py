"""Losses of the router: their values where they are known, their gradients by autograd."""

from __future__ import annotations

import pytest
import torch

from meshwright.costmodel.model import MoeFfnSpec, RouterScore
from meshwright.executor.layer.router_losses import (
    device_load,
    even_backward,
    scores_of_sequences,
    sequence_load,
    z_backward,
    z_loss,
)

MOE = MoeFfnSpec(num_experts=4, top_k=2, intermediate=8)


def _logits() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


def test_an_even_load_is_one_and_all_tokens_to_two_experts_is_two() -> None:
    counts = torch.tensor([[3, 3, 3, 3], [6, 6, 0, 0]])
    load = sequence_load(counts, MOE, 6, torch.float64)
    assert load.tolist() == [[1.0] * 4, [2.0, 2.0, 0.0, 0.0]]
    assert device_load(load, 2).tolist() == [[1.0] * 4, [2.0, 2.0, 0.0, 0.0]]
    assert device_load(load[:, [0, 2, 1, 3]], 2).tolist() == [[1.0] * 4] * 2


@pytest.mark.parametrize("score", list(RouterScore))
def test_the_gradient_of_summed_scores(score: RouterScore) -> None:
    logits, grad = _logits(), torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 3.0, 1.0, 1.0]], dtype=torch.float64)
    (scores_of_sequences(logits, score, 2) * grad).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(even_backward(logits.detach(), grad, score), logits.grad)


def test_members_of_a_micro_batch_lie_side_by_side() -> None:
    sums = scores_of_sequences(_logits().detach(), RouterScore.SOFTMAX, 2)
    torch.testing.assert_close(sums[1], _logits().detach()[1::2].softmax(-1).sum(0))


def test_the_gradient_of_z() -> None:
    logits = _logits()
    z_loss(logits).backward()
    assert logits.grad is not None
    torch.testing.assert_close(z_backward(logits.detach()), logits.grad)
    assert float(z_loss(torch.full((3, 1), 2.0))) == pytest.approx(12.0)
