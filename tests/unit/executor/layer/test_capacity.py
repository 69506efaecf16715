"""Which choices a bounded capacity keeps."""

from __future__ import annotations

import pytest
import torch

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.executor.layer.capacity import sequence_capacity, within_capacity
from meshwright.executor.layer.groups import ALONE
from meshwright.executor.layer.sequence_counts import SequenceCounts, count_by_sequence

EXPERTS = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 1], [0, 1], [2, 1]], dtype=torch.int32)


def test_an_expert_takes_the_first_tokens_of_each_sequence() -> None:
    one = within_capacity(EXPERTS, count_by_sequence(EXPERTS, 3, 1, ALONE), 2)
    assert one.tolist() == [[True, True], [True, True], [False, True], [False, False], [False, False], [True, False]]
    two = within_capacity(EXPERTS, count_by_sequence(EXPERTS, 3, 2, ALONE), 2)
    assert two.tolist() == [[True, True], [True, True], [True, True], [True, True], [False, False], [True, True]]


def test_tokens_of_other_ranks_come_first() -> None:
    before = torch.tensor([[1, 2, 0]])
    kept = within_capacity(EXPERTS[:2], SequenceCounts(whole_BE=before, before_PBE=before.unsqueeze(0)), 2)
    assert kept.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(("factor", "tokens"), [(0.1, 1), (1.0, 4), (1.1, 5), (100.0, 16)])
def test_a_capacity_is_rounded_up_and_at_most_the_sequence(factor: float, tokens: int) -> None:
    assert sequence_capacity(factor, MoeFfnSpec(num_experts=8, top_k=2, intermediate=4), 16) == tokens
