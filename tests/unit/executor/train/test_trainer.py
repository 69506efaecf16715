"""A trainer on one rank: what it shows, and what it does with numbers that are none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from torch import Tensor

from meshwright.costmodel.presets import load_model
from meshwright.costmodel.workload import Workload
from meshwright.executor.data.synthetic import MarkovTokens
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.state.learning_rate import Decay, LearningRate
from meshwright.executor.train.trainer import LossError, Trainer, TrainingChoices
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.search import search
from meshwright.planner.space import Problem


class SameBatch:
    """The same tokens in every step: to be learned by heart."""

    identity = "one batch"

    def batch(self, step: int, sequences: range) -> Tensor:
        return MarkovTokens(vocabulary=256, seq_len=16, global_batch=8, seed=0).batch(0 * step, sequences)


def make_trainer(
    repository: Path,
    dtype: torch.dtype,
    *,
    skip: bool = False,
    planned_capacity: float | UnsetType = UNSET,
    capacity: float | UnsetType = UNSET,
) -> Trainer:
    problem = Problem(
        model=load_model(str(repository / "docs" / "tiny_moe.json")),
        cluster=load_cluster("h100").with_gpus(1),
        workload=Workload(global_batch=8, seq_len=16),
        fixes=parse_fixes(("mbs=4,zero=1",)),
    )
    configuration = search(problem, top=0).configuration
    workload = replace(configuration.workload, capacity_factor=planned_capacity)
    configuration = replace(configuration, workload=workload)
    choices = TrainingChoices(
        numerics=Numerics(device=torch.device("cpu"), dtype=dtype, capacity_factor=capacity),
        learning_rate=LearningRate(peak=1e-2, num_steps=8, decay=Decay.CONSTANT),
        skip_not_finite=skip,
    )
    return Trainer(configuration, 0, choices, SameBatch())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_falls(repository: Path, dtype: torch.dtype) -> None:
    trainer = make_trainer(repository, dtype)
    losses = [trainer.step(step).loss for step in range(8)]
    assert losses[0] == pytest.approx(torch.log(torch.tensor(256.0)).item(), rel=0.01)
    assert losses[-1] < losses[0] - 0.3


def test_bfloat16_weights_follow_float32_masters(repository: Path) -> None:
    trainer = make_trainer(repository, torch.bfloat16)
    trainer.step(0)
    for flat in trainer.model.flats:
        assert flat.master.dtype is torch.float32
        assert torch.equal(flat.weights, flat.master.to(torch.bfloat16))


def test_experts_have_the_capacity_of_the_plan_unless_another_is_asked_for(repository: Path) -> None:
    def dropped(planned: float | UnsetType, asked: float | UnsetType) -> float:
        trainer = make_trainer(repository, torch.float32, planned_capacity=planned, capacity=asked)
        return trainer.step(0).dropped_fraction

    assert dropped(UNSET, UNSET) == dropped(0.5, math.inf) == 0.0
    assert dropped(0.5, UNSET) == dropped(UNSET, 0.5) > 0.4


def spoil(trainer: Trainer) -> list[torch.Tensor]:
    trainer.model.stages[0].setting.parts[0].runner.parameters["embedding"].fill_(float("nan"))
    return [flat.master.clone() for flat in trainer.model.flats]


def test_a_loss_that_is_no_number_ends_training_by_name(repository: Path) -> None:
    trainer = make_trainer(repository, torch.float32)
    masters = spoil(trainer)
    with pytest.raises(LossError, match=r"^step 5: loss nan, .*--skip-not-finite"):
        trainer.step(5)
    assert all(torch.equal(flat.master, before) for flat, before in zip(trainer.model.flats, masters, strict=True))


def test_such_a_step_is_left_out_where_that_is_asked_for(repository: Path) -> None:
    trainer = make_trainer(repository, torch.float32, skip=True)
    masters = spoil(trainer)
    assert trainer.step(5).skipped
    assert all(torch.equal(flat.master, before) for flat, before in zip(trainer.model.flats, masters, strict=True))
