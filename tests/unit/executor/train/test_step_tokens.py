"""Tokens of a step are those of the source, made ahead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.synthetic import UniformTokens
from meshwright.executor.train.step_tokens import StepTokens

SOURCE = UniformTokens(vocabulary=50, seq_len=8, global_batch=6, seed=1)
CPU = torch.device("cpu")


def test_any_step_can_be_asked_for() -> None:
    tokens = StepTokens(SOURCE, range(2, 5), CPU)
    for step in (0, 1, 1, 7, 3):
        assert torch.equal(tokens.of_step(step), SOURCE.batch(step, range(2, 5)))


class EndsEarly:
    """Has two steps."""

    identity = "two steps"

    def batch(self, step: int, sequences: range) -> Tensor:
        if step > 1:
            raise InputError("data", "step", f"{step}, expected 0 or 1")
        return SOURCE.batch(step, sequences)


def test_what_the_source_refuses_is_raised_when_the_step_is_asked_for() -> None:
    tokens = StepTokens(EndsEarly(), range(1), CPU)
    tokens.of_step(0)
    tokens.of_step(1)
    with pytest.raises(InputError, match="data: step: 2"):
        tokens.of_step(2)
