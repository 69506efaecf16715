"""Biases of experts and their loads after a step."""

from __future__ import annotations

import torch

from meshwright.executor.layer.bindings.router import CORRECTION
from meshwright.executor.layer.router_losses import LOAD
from meshwright.executor.train.expert_balance import balance_experts

COUNTS = {"layer 0": torch.tensor([6, 1, 3, 2])}


def test_busy_experts_get_less_and_idle_ones_more() -> None:
    bias = torch.tensor([1.0, 1.0, 1.0, 1.0])
    balance_experts({"layer 0": {CORRECTION: bias}}, COUNTS, 0.25)
    assert bias.tolist() == [0.75, 1.25, 1.0, 1.25]


def test_a_speed_of_nothing_leaves_them() -> None:
    bias = torch.zeros(4)
    balance_experts({"layer 0": {CORRECTION: bias}}, COUNTS, 0.0)
    assert bias.tolist() == [0.0] * 4


def test_loads_are_kept_over_the_mean() -> None:
    load = torch.ones(4)
    balance_experts({"layer 0": {LOAD: load}}, COUNTS, 0.0)
    torch.testing.assert_close(load, torch.tensor([2.0, 1 / 3, 1.0, 2 / 3]))
