from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshwright.costmodel.model import RouterScore
from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.route.contract import RouteOptions
from meshwright.kernels.route.operator import route


def test_of_equal_experts_the_lowest_is_chosen() -> None:
    assert route(torch.zeros(2, 8), RouteOptions(top_k=3)).experts_TK.tolist() == [[0, 1, 2]] * 2


def test_a_bias_counts_for_the_choice_alone() -> None:
    bias = torch.tensor([0.0, 0.0, 0.0, 2.0])
    options = RouteOptions(top_k=1, score=RouterScore.SIGMOID, normalize=False)
    routed = route(torch.tensor([[3.0, 1.0, 0.0, -1.0]]), options, bias)
    assert routed.experts_TK.tolist() == [[3]]
    assert routed.weights_TK.item() == pytest.approx(torch.tensor(-1.0).sigmoid().item())


def test_experts_come_from_the_best_groups() -> None:
    logits = torch.tensor([[5.0, -9.0, 1.0, 1.0, 4.0, 3.0]])  # groups by their two best: (5, -9), (1, 1), (4, 3)
    options = RouteOptions(top_k=2, score=RouterScore.SIGMOID, num_groups=3, groups_per_token=1)
    assert route(logits, options).experts_TK.tolist() == [[4, 5]]


def test_weights_add_up_to_the_scale_and_sums_to_the_tokens() -> None:
    for score in RouterScore:
        routed = route(torch.randn(50, 16), RouteOptions(top_k=4, score=score, scale=2.5))
        torch.testing.assert_close(routed.weights_TK.sum(-1), torch.full((50,), 2.5))
        torch.testing.assert_close(routed.sums_E.sum(), torch.tensor(50.0))
        assert int(routed.counts_E.sum()) == 200


@pytest.mark.parametrize(
    ("logits", "options", "problem"),
    [
        (torch.zeros(2, 8).half(), RouteOptions(top_k=1), "expected float32"),
        (torch.zeros(8), RouteOptions(top_k=1), "1 dims, expected 2"),
        (torch.zeros(2, 8), RouteOptions(top_k=9), "top_k is 9, expected 1 to 8"),
        (torch.zeros(2, 8), RouteOptions(top_k=3, num_groups=4, groups_per_token=1), "expected 1 to 2 experts"),
        (torch.zeros(2, 8), RouteOptions(top_k=1, num_groups=3), "3 groups do not divide 8"),
    ],
    ids=["format", "dims", "top_k", "reach", "groups"],
)
def test_what_does_not_fit_is_refused(logits: Tensor, options: RouteOptions, problem: str) -> None:
    with pytest.raises(KernelInputError, match=problem):
        route(logits, options)
