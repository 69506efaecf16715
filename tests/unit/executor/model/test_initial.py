"""Initial weights do not depend on how ranks cut them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameters import Block, Cut, ParameterSpec
from meshwright.executor.model.initial import DEVIATION, initial_part

LIKE = torch.zeros((), dtype=torch.float64)
QKV = ParameterSpec(name="qkv", shape=(48, 16), cut=Cut.TENSOR, blocks=(Block(count=4, size=8), Block(count=2, size=8)))
EXPERTS = ParameterSpec(name="experts_fc2", shape=(4, 16, 8), cut=Cut.EXPERT, blocks=(Block(count=4),))
BIAS = ParameterSpec(name="qkv.bias", shape=(48,), cut=Cut.TENSOR, blocks=QKV.blocks, fill=0.0)
NORM = ParameterSpec(name="norm1", shape=(16,), fill=1.0)


def part(spec: ParameterSpec, size: int, rank: int, name: str = "layers.0.x", seed: int = 3) -> Tensor:
    ranks = Communicator(size=size, rank=rank)
    return initial_part(spec, name, LayerGroups(tensor=ranks, expert=ranks), num_layers=2, seed=seed, like=LIKE)


@pytest.mark.parametrize("spec", [QKV, EXPERTS, BIAS, NORM], ids=lambda spec: spec.name)
def test_parts_are_cut_from_the_same_whole(spec: ParameterSpec) -> None:
    whole = part(spec, 1, 0)
    for rank in range(2):
        ranks = Communicator(size=2, rank=rank)
        assert torch.equal(part(spec, 2, rank), spec.part(whole, LayerGroups(tensor=ranks, expert=ranks)))


def test_names_seeds_and_experts_differ() -> None:
    assert not torch.equal(part(QKV, 1, 0), part(QKV, 1, 0, name="layers.1.x"))
    assert not torch.equal(part(QKV, 1, 0), part(QKV, 1, 0, seed=4))
    experts = part(EXPERTS, 1, 0)
    assert not torch.equal(experts[0], experts[1])


def test_what_writes_to_the_residual_stream_starts_smaller() -> None:
    deviations = {spec.name: float(part(spec, 1, 0).std()) for spec in (QKV, EXPERTS)}
    assert deviations["qkv"] == pytest.approx(DEVIATION, rel=0.1)
    assert deviations["experts_fc2"] == pytest.approx(DEVIATION / 2, rel=0.1)
