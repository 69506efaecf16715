"""How evenly tokens go to experts."""

from __future__ import annotations

import torch

from meshwright.executor.layer.groups import ALONE
from meshwright.executor.train.expert_load import ExpertLoad


def test_the_worst_layer_counts_each_with_its_own_number_of_experts() -> None:
    load = ExpertLoad(torch.device("cpu"))
    load.count("even", 4, torch.tensor([[0, 1], [2, 3]]))
    load.count("skewed", 2, torch.tensor([[0], [0], [0], [1]]))
    assert float(load.greatest(load.totals(ALONE))) == 1.5


def test_micro_batches_add_up_and_a_new_step_forgets() -> None:
    load = ExpertLoad(torch.device("cpu"))
    load.count("layer", 2, torch.tensor([[0]]))
    load.count("layer", 2, torch.tensor([[1]]))
    assert float(load.greatest(load.totals(ALONE))) == 1.0
    load.restart()
    load.count("layer", 2, torch.tensor([[1]]))
    assert float(load.greatest(load.totals(ALONE))) == 2.0


def test_without_experts_there_is_no_load() -> None:
    assert float(ExpertLoad(torch.device("cpu")).greatest({})) == 0.0
