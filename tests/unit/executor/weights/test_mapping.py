"""Every tensor of ours is tiled exactly by tensors of a file."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.presets import load_model
from meshwright.executor.weights.families import family_named
from meshwright.executor.weights.mapping import weight_mapping
from meshwright.executor.weights.model_parameters import model_shapes
from meshwright.executor.weights.region import Interleaved, Region

PRESETS = {
    "llama-3.2-1b": "llama",
    "qwen2-0.5b": "qwen2",
    "qwen3-0.6b": "qwen3",
    "mixtral-8x7b": "mixtral",
    "qwen3-30b-a3b": "qwen3_moe",
    "deepseek-v2-lite": "deepseek_v2",
    "deepseek-v3": "deepseek_v3",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_regions_tile_every_parameter_of_published_models(preset: str) -> None:
    mapping = weight_mapping(load_model(preset), family_named(PRESETS[preset], "test"))
    for name, regions in mapping.regions.items():
        whole = torch.Size(mapping.shapes[name])
        on_meta = torch.empty(whole, device="meta")
        assert all(on_meta[region.index].shape == region.shape for region in regions), name
        assert sum(torch.Size(region.shape).numel() for region in regions) == whole.numel(), name
        places = [tuple((i.start, i.stop) if isinstance(i, slice) else i for i in region.index) for region in regions]
        assert len(set(places)) == len(places), name
    assert len(mapping.sources) == sum(len(regions) for regions in mapping.regions.values())


def test_names_are_those_of_published_checkpoints() -> None:
    sources = weight_mapping(load_model("deepseek-v3"), family_named("deepseek_v3", "test")).sources
    assert sources["model.layers.0.mlp.down_proj.weight"] == (7168, 18432)
    assert sources["model.layers.3.self_attn.kv_a_proj_with_mqa.weight"] == (576, 7168)
    assert sources["model.layers.3.mlp.experts.255.up_proj.weight"] == (2048, 7168)
    assert sources["model.layers.60.mlp.gate.e_score_correction_bias"] == (256,)
    assert sources["model.layers.61.eh_proj.weight"] == (7168, 14336)
    assert "model.layers.61.embed_tokens.weight" not in sources


def test_a_tied_head_is_no_parameter() -> None:
    model = load_model("llama-3.2-1b")
    assert "head" not in model_shapes(model)
    mapping = weight_mapping(model, family_named("llama", "test"))
    assert mapping.copies == {"lm_head.weight": "embedding"}


def test_a_parameter_without_a_name_is_refused() -> None:
    with pytest.raises(ModelError, match=r"final_norm\.bias: llama checkpoints have no such parameter"):
        weight_mapping(load_model("phi-3.5-moe"), family_named("llama", "test"))
    with pytest.raises(ModelError, match="model_type: 'gpt2': no weights of this family; expected one of llama, "):
        family_named("gpt2", "config.json")


def test_pairs_become_halves_and_come_back() -> None:
    rows = torch.arange(12).view(12, 1)
    order = Interleaved(group=6, begin=2, width=4)
    assert order.to_halves(rows).flatten().tolist() == [0, 1, 2, 4, 3, 5, 6, 7, 8, 10, 9, 11]
    assert torch.equal(order.to_pairs(order.to_halves(rows)), rows)
    region = Region(source="a", shape=(12, 1), order=order)
    target = torch.empty_like(rows)
    region.put(target, rows)
    assert torch.equal(region.take(target), rows)


def test_the_conftest_covers_every_family() -> None:
    from meshwright.executor.weights.families import FAMILIES

    tested = {kind for kind, _ in runpy.run_path(str(Path(__file__).with_name("conftest.py")))["FAMILIES"].values()}
    assert {family.model_type for family in FAMILIES} - tested == {"kimi_k2"}  # DeepSeek-V3 by another name
