from __future__ import annotations

import pytest

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.formulas.parameters import total_parameters
from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.presets import load_model, preset_names
from meshwright.planner.codesign.dimensions import DIMENSIONS, shaped, sizes_of


def _moe(name: str, **sizes: int) -> MoeFfnSpec:
    ffn = shaped(load_model(name), {key.replace("_", "-"): size for key, size in sizes.items()}).layers[-1].ffn
    assert isinstance(ffn, MoeFfnSpec)
    return ffn


@pytest.mark.parametrize("name", preset_names())
def test_its_own_sizes_change_nothing(name: str) -> None:
    base = load_model(name)
    sizes = sizes_of(base)
    assert shaped(base, sizes) == base
    assert sizes.keys() <= DIMENSIONS.keys()
    assert sizes["layers"] == base.num_layers


def test_heads_follow_the_hidden_size() -> None:
    attention = shaped(load_model("internal-352b"), {"hidden": 6144}).layers[0].attention
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (48, 8, 128)


def test_given_heads_do_not() -> None:
    attention = shaped(load_model("internal-352b"), {"hidden": 6144, "heads": 32}).layers[0].attention
    assert (attention.num_heads, attention.head_dim) == (32, 128)


def test_key_value_heads_stay_as_many_as_heads_where_they_were() -> None:
    attention = shaped(load_model("llama-2-7b"), {"hidden": 5120}).layers[0].attention
    assert (attention.num_heads, attention.num_kv_heads) == (40, 40)
    latent = shaped(load_model("deepseek-v3"), {"heads": 64}).layers[0].attention
    assert (latent.num_heads, latent.num_kv_heads) == (64, 64)


def test_shared_experts_are_as_wide_as_routed_ones() -> None:
    narrow = _moe("internal-352b", expert_size=7168)
    assert (narrow.intermediate, narrow.shared_intermediate) == (7168, 7168)
    assert _moe("internal-352b", shared_experts=0).shared_intermediate == 0
    assert _moe("internal-352b", shared_experts=2, expert_size=1024).shared_intermediate == 2048
    assert _moe("qwen1.5-moe-a2.7b", expert_size=2048).shared_intermediate == 4 * 2048


def test_layers_keep_their_pattern() -> None:
    deep = shaped(load_model("deepseek-v3"), {"layers": 80})
    assert [(layer.is_moe, count) for layer, count in deep.layer_runs] == [(False, 3), (True, 77)]
    alternating = shaped(load_model("llama-4-maverick"), {"layers": 50})
    assert [layer.is_moe for layer in alternating.layers[-4:]] == [False, True, False, True]


def test_half_the_layers_are_half_the_parameters_between_the_ends() -> None:
    base = load_model("mixtral-8x7b")
    half = shaped(base, {"layers": base.num_layers // 2})
    ends = 2 * base.hidden * base.vocab + base.hidden
    assert 2 * (total_parameters(half) - ends) == total_parameters(base) - ends


@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("internal-352b", {"hidden": 5000}, "hidden: 5000 is not a multiple of 128, what internal-352b has"),
        ("internal-352b", {"heads": 28}, "num_kv_heads: 8 does not divide num_heads 28"),
        ("internal-352b", {"hidden": 4608}, "num_kv_heads: 8 does not divide num_heads 36"),
        ("internal-352b", {"top-k": 33}, "top_k: 33 is more than num_experts 32"),
        ("deepseek-v3", {"head-size": 64}, "rope_head_dim: 64 is not between 0 and head_dim"),
    ],
)
def test_sizes_that_contradict_each_other(name: str, sizes: dict[str, int], expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        shaped(load_model(name), sizes)
    assert expected in str(caught.value)


def test_the_name_says_what_is_different() -> None:
    model = shaped(load_model("internal-352b"), {"experts": 64, "layers": 60, "expert-size": 7168})
    assert model.name == "internal-352b experts=64 expert-size=7168"


def test_a_dense_model_has_no_sizes_of_experts() -> None:
    sizes = sizes_of(load_model("llama-3.1-8b"))
    assert sizes["ffn-size"] == 14336
    assert not {"experts", "top-k", "expert-size", "shared-experts"} & sizes.keys()
