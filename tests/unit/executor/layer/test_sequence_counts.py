"""How often sequences chose experts."""

from __future__ import annotations

import torch

from meshwright.executor.layer.groups import ALONE
from meshwright.executor.layer.sequence_counts import count_by_sequence


def test_each_sequence_counts_its_own_tokens() -> None:
    experts = torch.tensor([[0, 1], [2, 1], [0, 2], [2, 0]], dtype=torch.int32)
    counts = count_by_sequence(experts, 3, 2, ALONE)
    assert counts.whole_BE.tolist() == [[2, 1, 1], [1, 1, 2]]
    assert counts.before_PBE.tolist() == [[[0, 0, 0]] * 2]
