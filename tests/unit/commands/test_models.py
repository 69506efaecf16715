from __future__ import annotations

import json

import pytest

from meshwright.cli import main
from meshwright.commands.models import SEQ_LEN_TOKENS, model_figures
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.presets import preset_names

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=16, value_head_dim=16)


def test_json_is_one_object_with_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert tuple(model["name"] for model in models) == preset_names()


def test_json_of_a_known_model(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "--json"])
    mixtral = next(model for model in json.loads(capsys.readouterr().out)["models"] if model["name"] == "mixtral-8x7b")
    # Source: Mixtral of Experts, arXiv 2401.04088, table 1 and section 2: 47B total, 13B active.
    assert round(mixtral["total_parameters"] / 1e9) == 47
    assert round(mixtral["active_parameters"] / 1e9) == 13
    assert (mixtral["num_layers"], mixtral["hidden"], mixtral["num_heads"]) == (32, 4096, 32)
    assert (mixtral["num_kv_heads"], mixtral["num_experts"], mixtral["top_k"]) == (8, 8, 2)
    assert mixtral["seq_len"] == SEQ_LEN_TOKENS
    assert mixtral["flops_per_token"] > 6 * 12.5e9


def test_the_table_keeps_one_line_a_preset_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in preset_names():
        assert sum(line.split()[:1] == [name] for line in lines) == 1


def test_a_mixed_stack_shows_its_experts() -> None:
    dense = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=64))
    moe = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=4, top_k=2, intermediate=32))
    model = ModelSpec(name="mixed", hidden=128, vocab=1000, layers=(dense, moe, moe))
    figures = model_figures("mixed", model)
    assert (figures.num_layers, figures.num_moe_layers) == (3, 2)
    assert (figures.num_experts, figures.top_k) == (4, 2)


def test_a_dense_model_has_no_experts() -> None:
    layer = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=64))
    figures = model_figures("dense", ModelSpec(name="dense", hidden=128, vocab=1000, layers=(layer,)))
    assert (figures.num_moe_layers, figures.num_experts, figures.top_k) == (0, 0, 0)
    assert figures.total_parameters == figures.active_parameters


def test_multi_token_prediction_is_in_neither_count_and_said_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSeek-V3's model card: 671B, 37B active, and 14B of the module with its copies of embedding and head."""
    main(["models", "--json"])
    figures = next(one for one in json.loads(capsys.readouterr().out)["models"] if one["name"] == "deepseek-v3")
    assert round(figures["total_parameters"] / 1e9) == 671
    assert figures["active_parameters"] / 1e9 == pytest.approx(37, abs=0.6)
    copies = 2 * 7168 * 129280
    assert (figures["total_parameters"] + figures["mtp_parameters"] + copies) / 1e9 == pytest.approx(685, abs=0.6)
    attention = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    products = attention + 9 * 3 * 7168 * 2048 + 256 * 7168 + 2 * 7168**2
    scores = 2 * 128 * (192 + 128) * SEQ_LEN_TOKENS / 2
    by_hand = 6 * (products + 7168 * 129280) + 3 * scores
    assert figures["mtp_flops_per_token"] == pytest.approx(by_hand, rel=1e-3)
    norms_and_bias = 1536 + 512 + 2 * 7168 + 256 + 3 * 7168
    assert figures["mtp_active_parameters"] == products + norms_and_bias
    main_products = 61 * attention + 3 * 3 * 7168 * 18432 + 58 * (9 * 3 * 7168 * 2048 + 256 * 7168) + 7168 * 129280
    assert figures["flops_per_token"] == pytest.approx(6 * main_products + 61 * 3 * scores, rel=1e-3)
