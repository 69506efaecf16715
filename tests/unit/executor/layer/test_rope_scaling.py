"""Stretched rotary positions are those of transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from meshwright.costmodel.errors import ModelError
from meshwright.executor.layer.rope_scaling import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling, yarn_mscale

WIDTH, THETA = 64, 500_000.0
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
CASES: list[tuple[RopeScaling, dict[str, Any]]] = [
    (LinearScaling(factor=3.0), {"rope_type": "linear", "factor": 3.0}),
    (
        Llama3Scaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=8192),
        {"rope_type": "llama3", **LLAMA3},
    ),
    (YarnScaling(factor=40.0, original_length=4096), {"rope_type": "yarn", **YARN}),
    (
        YarnScaling(factor=40.0, original_length=4096, truncate=False, attention_factor=1.5),
        {"rope_type": "yarn", **YARN, "truncate": False, "attention_factor": 1.5},
    ),
    (
        YarnScaling(factor=40.0, original_length=4096, mscale=0.707, mscale_all_dim=0.5),
        {"rope_type": "yarn", **YARN, "mscale": 0.707, "mscale_all_dim": 0.5},
    ),
]


@pytest.mark.parametrize(("scaling", "parameters"), CASES, ids=["linear", "llama3", "yarn", "whole", "mscale"])
def test_frequencies_are_those_of_transformers(scaling: RopeScaling, parameters: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        head_dim=WIDTH, max_position_embeddings=131_072, rope_parameters={"rope_theta": THETA, **parameters}
    )
    expected, table_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    plain = THETA ** -(torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
    torch.testing.assert_close(scaling.frequencies(plain, THETA), expected.double(), rtol=2e-5, atol=0.0)
    assert scaling.table_factor == pytest.approx(table_factor)
    assert scaling.score_factor == 1.0


def test_scores_of_deepseek_grow_by_mscale_squared() -> None:
    """DeepSeek-V3: factor 40, mscale_all_dim 1."""
    scaling = YarnScaling(factor=40.0, original_length=4096, mscale=1.0, mscale_all_dim=1.0, scales_scores=True)
    assert scaling.score_factor == pytest.approx((0.1 * math.log(40) + 1) ** 2)
    assert scaling.table_factor == 1.0
    assert yarn_mscale(0.5, 1.0) == 1.0


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_factors_are_positive(factor: float) -> None:
    with pytest.raises(ModelError, match=r"rope_scaling: factor: .*expected a positive number"):
        LinearScaling(factor=factor)
