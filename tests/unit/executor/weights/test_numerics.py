"""What is read from a config.json beside shapes."""

from __future__ import annotations

import re

import pytest

from meshwright.costmodel.errors import ModelError
from meshwright.executor.layer.context import RoutingChoice
from meshwright.executor.layer.rope_scaling import NO_SCALING, LinearScaling, YarnScaling
from meshwright.executor.weights.numerics import ModelNumerics, read_numerics


def _read(**fields: object) -> ModelNumerics:
    return read_numerics({"model_type": "llama", **fields}, "config.json")


def test_defaults_are_those_of_the_class() -> None:
    assert _read() == ModelNumerics()
    mixtral = _read(model_type="mixtral")
    assert (mixtral.norm_epsilon, mixtral.rope_theta) == (1e-5, 1e6)
    assert _read(model_type="qwen3_moe").routing == RoutingChoice(normalize=False)
    assert _read(model_type="deepseek_v3").routing == RoutingChoice(normalize=True, scale=2.5)


def test_names_of_transformers_4_and_5_are_read() -> None:
    old = _read(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2})
    new = _read(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})
    assert old == new == ModelNumerics(rope_theta=5e5, rope_scaling=LinearScaling(factor=2.0))
    assert _read(rope_parameters={"rope_type": "default", "rope_theta": 1e4}).rope_scaling is NO_SCALING


def test_yarn_of_deepseek_v3_as_published() -> None:
    scaling = {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    }
    read = _read(model_type="deepseek_v3", rope_scaling=scaling).rope_scaling
    assert read == YarnScaling(factor=40.0, original_length=4096, mscale=1.0, mscale_all_dim=1.0, scales_scores=True)
    assert _read(rope_scaling=scaling).rope_scaling.score_factor == 1.0  # other families leave scores alone


def test_a_missing_yarn_factor_follows_from_the_lengths() -> None:
    scaling = {"rope_type": "yarn", "original_max_position_embeddings": 4096, "factor": None}
    assert _read(max_position_embeddings=16384, rope_scaling=scaling).rope_scaling.factor == 4.0


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu': the executor does not run this; expected 'silu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5: the executor does not run this"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.*partial_rotary_factor"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_type: 'longrope', expected one of default, linear"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: missing, expected a number"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling: factor: 0.0, expected a positive"),
        ({"rope_scaling": 3}, "rope_scaling: 3, expected an object"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps: 'small', expected a number"),
        ({"rms_norm_eps": True}, "rms_norm_eps: True, expected a number"),
        ({"model_type": "qwen3_moe", "norm_topk_prob": 1}, "norm_topk_prob: 1, expected true or false"),
        ({"model_type": "deepseek_v2", "norm_topk_prob": True}, "norm_topk_prob: True, which deepseek_v2 code ignores"),
        ({"model_type": "gpt2"}, "model_type: 'gpt2': no weights of this family"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ModelError, match=re.compile(problem)):
        _read(**fields)
