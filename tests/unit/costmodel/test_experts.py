from __future__ import annotations

from itertools import combinations
from statistics import fmean

import pytest

from meshwright.costmodel.formulas.experts import expected_distinct_holders, expected_imbalance


def _by_enumeration(num_experts: int, top_k: int, num_holders: int, num_groups: int, groups_per_token: int) -> float:
    """The mean over every choice of groups, and every choice of experts within them."""
    group_size, holder_size = num_experts // num_groups, num_experts // num_holders
    counts = []
    for groups in combinations(range(num_groups), groups_per_token):
        reachable = [expert for expert in range(num_experts) if expert // group_size in groups]
        counts += [len({expert // holder_size for expert in chosen}) for chosen in combinations(reachable, top_k)]
    return fmean(counts)


@pytest.mark.parametrize(
    ("num_experts", "top_k", "num_holders", "num_groups", "groups_per_token"),
    [
        (8, 1, 4, 1, 1),
        (8, 2, 4, 1, 1),
        (8, 3, 2, 1, 1),
        (12, 4, 3, 1, 1),
        (8, 8, 8, 1, 1),
        (12, 3, 4, 4, 2),  # a holder for each group
        (12, 3, 2, 4, 2),  # two groups a holder
        (12, 3, 12, 4, 2),  # a group over three holders
        (12, 2, 6, 3, 1),
        (16, 4, 8, 4, 3),
        (8, 2, 1, 4, 2),
    ],
)
def test_holders_of_a_tokens_experts(
    num_experts: int, top_k: int, num_holders: int, num_groups: int, groups_per_token: int
) -> None:
    expected = _by_enumeration(num_experts, top_k, num_holders, num_groups, groups_per_token)
    found = expected_distinct_holders(num_experts, top_k, num_holders, num_groups, groups_per_token)
    assert found == pytest.approx(expected)


def test_more_uneven_experts_and_fewer_on_a_rank_are_less_balanced() -> None:
    assert expected_imbalance(0.0, 64, 8) == 1.0
    assert 1.0 < expected_imbalance(0.1, 64, 8) < expected_imbalance(0.2, 64, 8)
    assert expected_imbalance(0.1, 64, 8) < expected_imbalance(0.1, 64, 16) < expected_imbalance(0.1, 64, 64)
