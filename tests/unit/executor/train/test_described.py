"""What a plan does not say of its model comes from a config.json that is checked against it, or from its preset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import InputError, ModelError
from meshwright.costmodel.model import with_num_layers
from meshwright.costmodel.presets import load_model
from meshwright.executor.layer.rope_scaling import YarnScaling
from meshwright.executor.train.described import PLAIN, describe_model
from meshwright.executor.weights.numerics import ModelNumerics


def test_a_preset_has_the_published_values() -> None:
    found = describe_model(load_model("deepseek-v2"), None)
    assert found.source == "preset deepseek-v2"
    assert (found.numerics.routing.normalize, found.numerics.routing.scale) == (False, 16.0)
    assert isinstance(found.numerics.rope_scaling, YarnScaling)
    assert found.numerics.rope_scaling.factor == 40
    qwen = describe_model(load_model("qwen3-30b-a3b"), None).numerics
    assert (qwen.rope_theta, qwen.norm_epsilon, qwen.routing.normalize) == (1e6, 1e-6, True)


def test_the_first_layers_of_a_preset_and_its_other_names_have_them_too() -> None:
    mixtral = describe_model(with_num_layers(load_model("mixtral-8x7b"), 4), None)
    assert (mixtral.numerics.norm_epsilon, mixtral.numerics.rope_theta) == (1e-5, 1e6)
    assert describe_model(load_model("llama3-8b"), None).numerics.rope_theta == 5e5


def test_families_whose_weights_are_not_read_have_numerics() -> None:
    assert not describe_model(load_model("qwen1.5-moe-a2.7b"), None).numerics.routing.normalize
    assert describe_model(load_model("dbrx"), None).source == PLAIN


def test_a_model_that_only_has_a_presets_name_has_plain_values() -> None:
    model = replace(load_model("qwen3-30b-a3b"), vocab=100)
    found = describe_model(model, None)
    assert (found.numerics, found.source) == (ModelNumerics(), PLAIN)


@pytest.fixture
def config(repository: Path, tmp_path: Path) -> Path:
    """The tiny model's config.json in a folder, with an epsilon."""
    fields = json.loads((repository / "docs" / "tiny_moe.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields | {"rms_norm_eps": 1e-3, "max_position_embeddings": 99}))
    return path


def test_a_file_or_its_folder(repository: Path, config: Path) -> None:
    model = load_model(str(repository / "docs" / "tiny_moe.json"))
    found = describe_model(model, config)
    assert found == describe_model(model, config.parent)
    assert (found.numerics.norm_epsilon, found.max_length, found.source) == (1e-3, 99, str(config))


def test_the_first_differing_fields_are_named(config: Path) -> None:
    model = load_model(str(config))
    layers = tuple(
        replace(layer, attention=replace(layer.attention, num_kv_heads=4 if index < 2 else 2), num_norms=4)
        for index, layer in enumerate(model.layers)
    )
    planned = replace(model, layers=layers, vocab=100)
    with pytest.raises(ModelError) as refused:
        describe_model(planned, config)
    assert str(refused.value) == (
        f"{config}: not the plan's model: vocab: 256, the plan has 100;"
        " layers 0 to 1: attention.num_kv_heads: 2, the plan has 4; layers 0 to 1: num_norms: 2, the plan has 4;"
        " and 1 more"
    )


def test_another_number_of_layers_and_another_kind(config: Path) -> None:
    with pytest.raises(ModelError, match="num_layers: 4, the plan has 3"):
        describe_model(with_num_layers(load_model(str(config)), 3), config)
    dense = load_model("qwen3-0.6b")
    with pytest.raises(ModelError, match="num_layers: 4, the plan has 28; hidden: 64, the plan has 1024"):
        describe_model(dense, config)


def test_a_missing_file_is_named(config: Path) -> None:
    model = load_model(str(config))
    with pytest.raises(InputError, match=r"none.json: no such file"):
        describe_model(model, config.parent / "none.json")


def test_a_family_without_known_numerics_is_refused(config: Path) -> None:
    """Its file would be read for the shapes, and its own constants ignored."""
    fields = {"model_type": "nemotron", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256}
    config.write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="model_type: 'nemotron': numerics of this family are not read"):
        describe_model(load_model(str(config)), config)
