"""An export appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from meshwright.costmodel.errors import InputError, ModelError
from meshwright.costmodel.huggingface import read_config
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.presets import load_model
from meshwright.executor.layer.context import RoutingChoice
from meshwright.executor.weights.companions import TOKEN_IDS, find_companions
from meshwright.executor.weights.config import family_and_config
from meshwright.executor.weights.export_weights import export_weights
from meshwright.executor.weights.import_weights import open_source
from meshwright.executor.weights.model_parameters import model_shapes
from meshwright.executor.weights.numerics import ModelNumerics

TINY = {
    "vocab_size": 16,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 12,
}
V3: dict[str, object] = TINY | {
    "model_type": "deepseek_v3",
    "q_lora_rank": 6,
    "kv_lora_rank": 4,
    "qk_nope_head_dim": 2,
    "qk_rope_head_dim": 4,
    "v_head_dim": 3,
    "moe_intermediate_size": 5,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
}
NUMERICS = ModelNumerics(routing=RoutingChoice(scale=2.5))


def _model(config: dict[str, object]) -> ModelSpec:
    return read_config(config, "config.json", "tiny")


def _weights(model: ModelSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in model_shapes(model).items()}


def _export(model: ModelSpec, weights: dict[str, Tensor], folder: Path, dtype: torch.dtype | None = None) -> None:
    export_weights(weights.items(), folder, model, NUMERICS, max_length=32, dtype=dtype)


def test_prediction_modules_come_back(tmp_path: Path) -> None:
    model = _model(V3)
    weights = _weights(model)
    _export(model, weights, tmp_path / "out")
    source = open_source(tmp_path / "out")
    assert source.model.mtp_depth == 1
    read = dict(source.tensors())
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    without = dict(open_source(tmp_path / "out", with_prediction_modules=False).tensors())
    assert without.keys() == {name for name in weights if not name.startswith("mtp1.")}


def test_missing_prediction_modules_are_named(tmp_path: Path) -> None:
    model = _model({**V3, "num_nextn_predict_layers": 0})
    _export(model, _weights(model), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    with pytest.raises(InputError, match=r"model\.layers\.2\.enorm\.weight: no prediction modules in the files"):
        list(open_source(tmp_path / "out").tensors())
    assert dict(open_source(tmp_path / "out", with_prediction_modules=False).tensors()).keys() == _weights(model).keys()


def test_formats_are_converted_but_for_the_correction_bias(tmp_path: Path) -> None:
    model = _model(V3)
    weights = _weights(model)
    _export(model, weights, tmp_path / "out", dtype=torch.bfloat16)
    read = dict(open_source(tmp_path / "out").tensors())
    assert torch.equal(read["layers.1.router.correction"], weights["layers.1.router.correction"])
    assert torch.equal(read["layers.1.experts_fc1"], weights["layers.1.experts_fc1"].bfloat16())
    config = msgspec.json.decode((tmp_path / "out" / "config.json").read_bytes())
    assert config["torch_dtype"] == "bfloat16"
    converted = dict(open_source(tmp_path / "out").tensors(dtype=torch.float16))
    assert {tensor.dtype for tensor in converted.values()} == {torch.float16, torch.float32}
    assert converted["layers.1.router.correction"].dtype is torch.float32
    assert config["max_position_embeddings"] == 32


def test_what_goes_with_weights_is_written_beside_them(tmp_path: Path) -> None:
    model = _model(V3)
    (tmp_path / "tokenizer.json").write_text("{}")
    companions = find_companions({"eos_token_id": 3}, tmp_path)
    export_weights(_weights(model).items(), tmp_path / "out", model, NUMERICS, max_length=32, companions=companions)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["eos_token_id"], "bos_token_id" in config) == (3, False)


def test_no_token_is_special_where_nothing_is_known(tmp_path: Path) -> None:
    model = _model(V3)
    _export(model, _weights(model), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [config[name] for name in TOKEN_IDS] == [None, None, None]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.pop("final_norm"), r"final_norm: missing"),
        (lambda weights: weights.update(extra=torch.ones(1)), r"extra: the model has no such parameter"),
        (lambda weights: weights.update(final_norm=torch.ones(9)), r"final_norm: shape \(9,\), expected \(8,\)"),
    ],
)
def test_wrong_tensors_are_named_and_nothing_stays(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    model = _model(V3)
    weights = _weights(model)
    change(weights)
    with pytest.raises(InputError, match=problem):
        _export(model, weights, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="out: no space left on the disk; nothing was written"):
        _export(_model(V3), _weights(_model(V3)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(InputError, match="out: exists, expected a new or empty folder"):
        _export(_model(V3), _weights(_model(V3)), tmp_path / "out")
    with pytest.raises(InputError, match="expected a place in an existing folder"):
        _export(_model(V3), _weights(_model(V3)), tmp_path / "none" / "out")


@pytest.mark.parametrize(
    ("preset", "family", "numerics"),
    [
        ("llama-3.1-8b", "llama", ModelNumerics(rope_theta=5e5)),
        ("mistral-7b", "mistral", ModelNumerics()),
        ("qwen2-7b", "qwen2", ModelNumerics()),
        ("qwen3-8b", "qwen3", ModelNumerics()),
        ("mixtral-8x7b", "mixtral", ModelNumerics(norm_epsilon=1e-5)),
        ("qwen3-30b-a3b", "qwen3_moe", ModelNumerics(routing=RoutingChoice(normalize=True))),
        ("deepseek-v2", "deepseek_v2", ModelNumerics(routing=RoutingChoice(normalize=False, scale=16.0))),
        ("deepseek-v3", "deepseek_v3", NUMERICS),
    ],
)
def test_published_models_get_a_family(preset: str, family: str, numerics: ModelNumerics) -> None:
    found, config = family_and_config(load_model(preset), numerics, 4096)
    assert found.model_type == config["model_type"] == family


def test_a_model_of_no_family_is_refused() -> None:
    with pytest.raises(ModelError, match="no Hugging Face family among llama, "):
        family_and_config(load_model("gpt-oss-20b"), ModelNumerics(), 4096)
