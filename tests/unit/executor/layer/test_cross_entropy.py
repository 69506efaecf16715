"""Cross-entropy as one expression agrees with torch's, also over a vocabulary that two ranks share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from meshwright.executor.layer.bindings.cross_entropy import gradient_fused, statistics_fused, summed_loss

TOKENS, VOCABULARY, SCALE = 7, 12, 0.25


def _columns(labels_T: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    columns = labels_T - first
    elsewhere = (columns < 0) | (columns >= count)
    return columns.masked_fill(elsewhere, 0), elsewhere


def test_loss_and_gradient_over_one_and_two_ranks() -> None:
    torch.manual_seed(0)
    logits = (3.0 * torch.randn(TOKENS, VOCABULARY, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(VOCABULARY, (TOKENS,))
    loss = cross_entropy(logits, labels, reduction="sum")
    (expected,) = torch.autograd.grad(SCALE * loss, logits)
    for ranks in (1, 2):
        width = VOCABULARY // ranks
        parts = logits.detach().split(width, 1)
        places = [_columns(labels, rank * width, width) for rank in range(ranks)]
        greatest, exponentials, label = torch.stack(
            [statistics_fused(part, *place) for part, place in zip(parts, places, strict=True)]
        ).unbind(-1)
        joined = greatest.amax(0)
        numbers = torch.stack((joined, (exponentials * (greatest - joined).exp()).sum(0), label.sum(0)), 1)
        torch.testing.assert_close(summed_loss(numbers), loss.detach())
        found = [
            gradient_fused(part, numbers, *place, SCALE, torch.float64)
            for part, place in zip(parts, places, strict=True)
        ]
        torch.testing.assert_close(torch.cat(found, 1), expected)


def test_the_gradient_has_the_format_asked_for() -> None:
    logits = torch.randn(TOKENS, VOCABULARY, dtype=torch.bfloat16)
    columns, elsewhere = torch.zeros(TOKENS, dtype=torch.int64), torch.zeros(TOKENS, dtype=torch.bool)
    numbers = statistics_fused(logits, columns, elsewhere)
    assert numbers.dtype is torch.float32
    assert gradient_fused(logits, numbers, columns, elsewhere, SCALE, torch.bfloat16).dtype is torch.bfloat16
