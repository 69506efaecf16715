"""Every name in use for a model gives that model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.presets import ALIASES, load_model, preset_names

# layers, hidden, heads, key/value heads, width of a dense block or an expert, experts, top-k, shared width, vocabulary
VALIDATION_MODELS = {
    "llama3-8b": (32, 4096, 32, 8, 14336, 0, 0, 0, 128256),
    "llama3-70b": (80, 8192, 64, 8, 28672, 0, 0, 0, 128256),
    "llama3.1-405b": (126, 16384, 128, 8, 53248, 0, 0, 0, 128256),
    "llama2-7b": (32, 4096, 32, 32, 11008, 0, 0, 0, 32000),
    "llama2-13b": (40, 5120, 40, 40, 13824, 0, 0, 0, 32000),
    "llama2-34b": (48, 8192, 64, 8, 22016, 0, 0, 0, 32000),
    "llama2-70b": (80, 8192, 64, 8, 28672, 0, 0, 0, 32000),
    "gpt3-175b": (96, 12288, 96, 96, 49152, 0, 0, 0, 51200),
    "gpt3-5b": (24, 4096, 32, 32, 16384, 0, 0, 0, 51200),
    "gpt3-20b": (44, 6144, 48, 48, 24576, 0, 0, 0, 51200),
    "nemotron4-15b": (32, 6144, 48, 8, 24576, 0, 0, 0, 256000),
    "nemotron4-340b": (96, 18432, 96, 8, 73728, 0, 0, 0, 256000),
    "nemotron-8b": (32, 4096, 32, 32, 16384, 0, 0, 0, 256000),
    "nemotron-22b": (40, 6144, 48, 48, 24576, 0, 0, 0, 256000),
    "grok1-314b": (64, 6144, 48, 8, 32768, 8, 2, 0, 128256),
    "llama4-maverick": (48, 5120, 40, 8, 8192, 128, 1, 8192, 202048),
    "deepseek-v3": (61, 7168, 128, 128, 2048, 256, 8, 2048, 129280),
    "deepseek-v2-lite": (27, 2048, 16, 16, 1408, 64, 6, 2816, 102400),
    "kimi-k2": (61, 7168, 64, 64, 2048, 384, 8, 2048, 163840),
    "mixtral-8x22b": (56, 6144, 48, 8, 16384, 8, 2, 0, 32768),
    "mixtral-8x22b-g8t8": (56, 6144, 48, 8, 2048, 64, 8, 0, 32768),
    "llama3-8x70b": (80, 8192, 64, 8, 28672, 8, 2, 0, 128256),
    "qwen2-57b-a14b": (28, 3584, 28, 4, 2560, 64, 8, 20480, 151936),
    "qwen3-235b-a22b": (94, 4096, 64, 4, 1536, 128, 8, 0, 151936),
    "qwen3-30b-a3b": (48, 2048, 32, 4, 768, 128, 8, 0, 151936),
    "qwen3-32b": (64, 5120, 64, 8, 25600, 0, 0, 0, 151936),
    "internal-352b": (60, 4096, 32, 8, 14336, 32, 3, 14336, 65536),
    "gpt-oss-20b": (24, 2880, 64, 8, 2880, 32, 4, 0, 201088),
    "gpt-oss-120b": (36, 2880, 64, 8, 2880, 128, 4, 0, 201088),
    "mpt-760m": (24, 1536, 12, 12, 6144, 0, 0, 0, 50368),
    "mpt-1b": (24, 2048, 16, 16, 8192, 0, 0, 0, 50368),
    "mpt-3b": (32, 2560, 20, 20, 10240, 0, 0, 0, 50368),
    "mpt-7b": (32, 4096, 32, 32, 16384, 0, 0, 0, 50368),
    "mpt-13b": (40, 5120, 40, 40, 20480, 0, 0, 0, 50368),
    "mpt-30b": (48, 7168, 56, 56, 28672, 0, 0, 0, 50368),
    "mpt-70b": (80, 8192, 64, 64, 32768, 0, 0, 0, 50368),
    "nanotron-1.34b": (16, 2048, 32, 32, 8192, 0, 0, 0, 131072),
    "nanotron-3.57b": (28, 3072, 32, 32, 8192, 0, 0, 0, 131072),
    "nanotron-8.86b": (32, 4096, 32, 32, 14336, 0, 0, 0, 131072),
    "nanotron-80b": (80, 8192, 64, 64, 28672, 0, 0, 0, 131072),
    "kempner-7b": (32, 4096, 32, 8, 14336, 0, 0, 0, 128256),
    "kempner-13b": (40, 5120, 40, 8, 17920, 0, 0, 0, 128256),
    "kempner-29b": (56, 6144, 48, 8, 21504, 0, 0, 0, 128256),
    "kempner-70b": (80, 8192, 64, 8, 28672, 0, 0, 0, 128256),
}
"""The models of the published training measurements, as those tables give them."""

PAPER_MODELS = {
    "internal-352b-no-shared": (60, 4096, 32, 8, 14336, 32, 3, 0, 65536),
    "paper-mixtral-8x7b": (32, 4096, 32, 8, 14336, 8, 2, 0, 65536),
    "paper-mixtral-8x22b": (56, 6144, 48, 8, 16384, 8, 2, 0, 65536),
    "paper-hunyuan-large": (64, 6400, 80, 8, 18304, 16, 1, 0, 65536),
    "paper-phi-3.5-moe": (32, 4096, 32, 8, 6400, 16, 2, 0, 65536),
    "paper-deepseek-moe": (28, 2048, 16, 16, 1408, 64, 6, 0, 65536),
}
"""arXiv 2505.11432 table 2, as printed."""


@pytest.mark.parametrize(("name", "expected"), [*VALIDATION_MODELS.items(), *PAPER_MODELS.items()])
def test_dimensions(name: str, expected: tuple[int, ...]) -> None:
    model = load_model(name)
    attention, ffn = model.layers[-1].attention, model.layers[-1].ffn
    experts = tuple(getattr(ffn, field, 0) for field in ("num_experts", "top_k", "shared_intermediate"))
    heads = (attention.num_heads, attention.num_kv_heads)
    assert (model.num_layers, model.hidden, *heads, ffn.intermediate, *experts, model.vocab) == expected
    assert model.name == name


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_says_where_it_is_from(name: str) -> None:
    model = load_model(name)
    assert model.name == name
    assert len(model.source) > 10


def test_aliases_point_at_presets_and_hide_none() -> None:
    assert set(ALIASES.values()) <= set(preset_names())
    assert not set(ALIASES) & set(preset_names())


def test_an_alias_is_the_same_model_under_its_own_name() -> None:
    assert load_model("llama3-8b").layers == load_model("llama-3.1-8b").layers
    assert load_model("llama3-8b").name == "llama3-8b"


def test_a_path_is_read_before_it_is_looked_up(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 10}
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(str(folder)) == load_model(str(folder / "config.json"))
    assert load_model(str(folder)).name == "tiny"
    assert load_model(str(folder)).source == str(folder / "config.json")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mixtral-8x7", "mixtral-8x7b"), ("lama-3.1-8b", "llama-3.1-8b"), ("internal-352", "internal-352b")],
)
def test_a_misspelt_name_gets_the_nearest_presets(name: str, nearest: str) -> None:
    with pytest.raises(ModelError, match=f"^{name}: no such preset or file, nearest presets: .*{nearest}") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["zzzzzz", "", ".."])
def test_what_is_no_model_at_all_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        load_model(name)


def test_a_name_with_a_null_character_is_an_error() -> None:
    with pytest.raises(ModelError):
        load_model("a\0b/config.json")
