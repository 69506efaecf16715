from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import ModelError, StrategyError
from meshwright.costmodel.formulas.parameters import total_parameters
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.presets import load_model
from meshwright.planner.held.model import held_model, resized, sources, value_of


def test_nothing_given_changes_nothing() -> None:
    for name in ("mixtral-8x7b", "deepseek-v3", "gpt3-175b"):
        assert held_model(load_model(name), {}) == load_model(name)


def test_experts_change_in_every_layer_that_has_them() -> None:
    model = held_model(load_model("deepseek-v3"), {"num_experts": 128, "expert_intermediate": 1024})
    assert model.layer_types[0] == load_model("deepseek-v3").layer_types[0]
    assert (value_of(model, "num_experts"), value_of(model, "expert_intermediate")) == (128, 1024)
    # 58 layers of 256 experts of 3 x 7168 x 2048 become 128 of half the width; the router loses 128 columns and biases.
    experts = 58 * 3 * 7168 * (256 * 2048 - 128 * 1024)
    routers = 58 * 128 * (7168 + 1)
    assert total_parameters(load_model("deepseek-v3")) - total_parameters(model) == experts + routers


def test_more_heads_bring_key_value_heads_in_mla_only() -> None:
    assert value_of(held_model(load_model("deepseek-v3"), {"num_heads": 64}), "num_kv_heads") == 64
    assert value_of(held_model(load_model("mixtral-8x7b"), {"num_heads": 64}), "num_kv_heads") == 8


def test_values_stay_as_wide_as_keys() -> None:
    model = held_model(load_model("mixtral-8x7b"), {"head_dim": 64})
    assert value_of(model, "value_head_dim") == 64
    both = held_model(load_model("mixtral-8x7b"), {"head_dim": 64, "value_head_dim": 128})
    assert value_of(both, "value_head_dim") == 128


def test_fields_that_need_each_other_change_together() -> None:
    with pytest.raises(ModelError, match="top_k"):
        held_model(load_model("mixtral-8x7b"), {"top_k": 16})
    assert value_of(held_model(load_model("mixtral-8x7b"), {"top_k": 16, "num_experts": 64}), "top_k") == 16


def test_a_field_that_no_layer_has_is_refused() -> None:
    with pytest.raises(StrategyError, match="llama-2-7b has no experts: it is a dense model"):
        held_model(load_model("llama-2-7b"), {"top_k": 2})


def test_a_longer_stack_goes_on_in_its_pattern() -> None:
    deepseek = resized(load_model("deepseek-v3"), 70)
    assert [count for _, count in deepseek.layer_runs] == [3, 67]
    assert [count for _, count in resized(load_model("deepseek-v3"), 10).layer_runs] == [3, 7]


def _stack(model: ModelSpec, kinds: str) -> ModelSpec:
    dense, moe = model.layer_types
    return replace(model, layers=tuple(dense if kind == "d" else moe for kind in kinds))


def _kinds(model: ModelSpec) -> str:
    return "".join("m" if layer.is_moe else "d" for layer in model.layers)


@pytest.mark.parametrize(
    ("kinds", "longer"),
    [("dmdm", "dmdmdm"), ("ddmddm", "ddmddmddm"), ("dmdmd", "dmdmdmd"), ("mmmm", "mmmmm"), ("d", "dd")],
)
def test_alternation_goes_on(kinds: str, longer: str) -> None:
    model = _stack(load_model("deepseek-v3"), kinds)
    assert _kinds(resized(model, len(longer))) == longer


def test_a_stack_without_a_pattern_cannot_grow() -> None:
    model = _stack(load_model("deepseek-v3"), "dddddddddm")
    with pytest.raises(StrategyError, match="repeat no pattern"):
        resized(model, 11)
    assert _kinds(resized(model, 9)) == "d" * 9


def test_layers_take_the_strategy_of_one_as_far_into_the_stack() -> None:
    model = _stack(load_model("deepseek-v3"), "dmmmm")
    assert sources(model, model) == (0, 1, 2, 3, 4)
    assert sources(model, resized(model, 9)) == (0, 1, 1, 2, 2, 3, 3, 4, 4)
    assert sources(model, resized(model, 3)) == (0, 1, 3)
