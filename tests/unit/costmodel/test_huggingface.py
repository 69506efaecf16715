"""Reading config.json files: each family's peculiarities, and one clear line for every kind of bad input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.huggingface import FAMILIES, read_config, read_config_file
from meshwright.costmodel.model import DenseFfnSpec, ModelSpec, MoeFfnSpec, RouterScore

SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 100}
LLAMA = {"model_type": "llama", **SIZES, "intermediate_size": 128}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_MOE = {**LLAMA, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}
DEEPSEEK = {
    **LLAMA,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 4,
    "topk_group": 2,
}
HUNYUAN = {**LLAMA, "model_type": "hunyuan", "num_experts": 4, "moe_topk": 1}
DBRX = {
    "model_type": "dbrx",
    "d_model": 64,
    "n_heads": 8,
    "n_layers": 2,
    "vocab_size": 100,
    "attn_config": {"kv_n_heads": 2},
    "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
}


def read(config: Mapping[str, object], **changes: object) -> ModelSpec:
    return read_config({**config, **changes}, "config.json", "small")


def experts_of(model: ModelSpec, layer: int = -1) -> MoeFfnSpec:
    ffn = model.layers[layer].ffn
    assert isinstance(ffn, MoeFfnSpec)
    return ffn


class TestFamilies:
    def test_llama_without_key_value_heads_has_one_a_head(self) -> None:
        assert read(LLAMA).layers[0].attention.num_kv_heads == 8
        assert read(LLAMA, num_key_value_heads=None).layers[0].attention.num_kv_heads == 8

    def test_llama_biases(self) -> None:
        layer = read(LLAMA, attention_bias=True, mlp_bias=True).layers[0]
        assert layer.attention.qkv_bias
        assert layer.attention.output_bias
        assert isinstance(layer.ffn, DenseFfnSpec)
        assert layer.ffn.bias

    def test_head_size_may_differ_from_hidden_over_heads(self) -> None:
        assert read(LLAMA, head_dim=32).layers[0].attention.head_dim == 32
        assert read(LLAMA).layers[0].attention.head_dim == 8

    @pytest.mark.parametrize(("changes", "window"), [({}, 4096), ({"sliding_window": None}, 0)])
    def test_mistral_s_window_is_on_unless_null(self, changes: dict[str, object], window: int) -> None:
        assert read({**LLAMA, "model_type": "mistral"}, **changes).layers[0].attention.window == window

    def test_qwen2_has_biases_on_query_key_and_value_alone(self) -> None:
        attention = read({**LLAMA, "model_type": "qwen2"}, num_key_value_heads=2).layers[0].attention
        assert attention.qkv_bias
        assert not attention.output_bias

    def test_qwen2_windows_begin_after_the_full_layers(self) -> None:
        config = {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2, "sliding_window": 7}
        model = read(config, use_sliding_window=True, max_window_layers=3)
        assert [layer.attention.window for layer in model.layers] == [0, 0, 0, 7]
        assert read(config).layers[3].attention.window == 0

    def test_qwen3_normalises_heads_of_128(self) -> None:
        attention = read({**LLAMA, "model_type": "qwen3"}, num_key_value_heads=2).layers[0].attention
        assert (attention.head_dim, attention.qk_norm, attention.qkv_bias) == (128, True, False)

    def test_qwen_moe_layers_by_step_and_exceptions(self) -> None:
        config = {**QWEN_MOE, "model_type": "qwen3_moe", "num_key_value_heads": 2}
        assert [layer.is_moe for layer in read(config, decoder_sparse_step=2).layers] == [False, True, False, True]
        assert [layer.is_moe for layer in read(config, mlp_only_layers=[0, 3]).layers] == [False, True, True, False]

    @pytest.mark.parametrize("model_type", ["qwen3_moe", "qwen2_moe"])
    def test_qwen_experts_as_transformers_5_counts_them(self, model_type: str) -> None:
        config = {**QWEN_MOE, "model_type": model_type, "num_key_value_heads": 2, "shared_expert_intermediate_size": 40}
        renamed = {**config, "num_local_experts": config["num_experts"]}
        del renamed["num_experts"]
        assert read(renamed) == read(config)

    def test_qwen2_moe_shared_expert_has_a_gate(self) -> None:
        config = {**QWEN_MOE, "model_type": "qwen2_moe", "num_key_value_heads": 2}
        experts = experts_of(read(config, shared_expert_intermediate_size=40))
        assert (experts.intermediate, experts.shared_intermediate, experts.shared_gate) == (32, 40, True)

    def test_deepseek_v3(self) -> None:
        model = read(DEEPSEEK, first_k_dense_replace=1, num_nextn_predict_layers=1)
        attention, experts = model.layers[-1].attention, experts_of(model)
        assert [layer.is_moe for layer in model.layers] == [False, True, True, True]
        assert (attention.head_dim, attention.value_head_dim, attention.nope_head_dim) == (12, 8, 8)
        assert (attention.query_lora_rank, attention.kv_lora_rank, attention.rope_head_dim) == (24, 16, 4)
        assert (experts.shared_intermediate, experts.num_expert_groups, experts.groups_per_token) == (64, 4, 2)
        assert experts.score is RouterScore.SIGMOID
        assert experts.score_correction_bias
        assert model.mtp_depth == 1

    def test_deepseek_v2_limits_routing_only_where_its_method_does(self) -> None:
        config = {**DEEPSEEK, "model_type": "deepseek_v2", "q_lora_rank": None}
        assert experts_of(read(config)).num_expert_groups == 1
        limited = read(config, topk_method="group_limited_greedy")
        assert experts_of(limited).num_expert_groups == 4
        assert limited.layers[0].attention.query_lora_rank == 0
        assert experts_of(limited).score is RouterScore.SOFTMAX

    def test_deepseek_moe_frequency(self) -> None:
        config = {**DEEPSEEK, "model_type": "deepseek"}
        model = read(config, moe_layer_freq=2, first_k_dense_replace=1)
        assert [layer.is_moe for layer in model.layers] == [False, False, True, False]
        assert not model.layers[0].attention.is_mla

    def test_gpt_oss_windows_sinks_and_biases(self) -> None:
        model = read({**MIXTRAL, "model_type": "gpt_oss"}, sliding_window=16, num_key_value_heads=2)
        assert [layer.attention.window for layer in model.layers] == [16, 0, 16, 0]
        assert model.layers[0].attention.sinks
        assert experts_of(model).bias
        assert experts_of(model).router_bias
        listed = read({**MIXTRAL, "model_type": "gpt_oss"}, num_key_value_heads=2, layer_types=["full_attention"] * 4)
        assert [layer.attention.window for layer in listed.layers] == [0] * 4

    def test_phimoe_biases(self) -> None:
        model = read({**MIXTRAL, "model_type": "phimoe"}, attention_bias=True, lm_head_bias=True)
        assert model.head_bias
        assert model.layers[0].norm_bias
        assert model.layers[0].attention.output_bias

    def test_llama4_alternates_and_chunks(self) -> None:
        text = {**MIXTRAL, "intermediate_size_mlp": 256, "interleave_moe_layer_step": 2, "attention_chunk_size": 32}
        model = read_config({"model_type": "llama4", "text_config": text}, "config.json", "small")
        assert [layer.is_moe for layer in model.layers] == [False, True, False, True]
        assert [layer.attention.chunk for layer in model.layers] == [32, 32, 32, 0]
        assert [layer.attention.qk_norm for layer in model.layers] == [True, True, True, False]
        assert not model.layers[0].attention.qk_norm_weights
        assert model.layers[0].ffn.intermediate == 256
        assert experts_of(model).shared_intermediate == 128

    def test_hunyuan_shares_keys_and_values(self) -> None:
        model = read(HUNYUAN, use_cla=True, cla_share_factor=2, use_mixed_mlp_moe=True, num_shared_expert=1)
        assert [layer.attention.shares_key_value for layer in model.layers] == [False, True, False, True]
        assert experts_of(model).shared_intermediate == 128

    def test_hunyuan_gives_some_sizes_as_a_list_for_all_layers(self) -> None:
        model = read(HUNYUAN, moe_topk=[2] * 4, moe_intermediate_size=[48] * 4)
        assert (experts_of(model).top_k, experts_of(model).intermediate) == (2, 48)
        with pytest.raises(ModelError, match=r"config.json: moe_topk: \[1, 2\], expected one number"):
            read(HUNYUAN, moe_topk=[1, 2, 1, 2])

    def test_hunyuan_with_one_expert_is_dense(self) -> None:
        assert not read(HUNYUAN, num_experts=1).is_moe

    def test_hunyuan_of_transformers_always_has_a_shared_expert(self) -> None:
        model = read({**HUNYUAN, "model_type": "hunyuan_v1_moe"})
        assert experts_of(model).shared_intermediate == 128
        assert model.layers[0].attention.qk_norm

    def test_dbrx(self) -> None:
        model = read_config(DBRX, "config.json", "small")
        assert (model.hidden, model.layers[0].attention.num_kv_heads, experts_of(model).top_k) == (64, 2, 2)

    def test_grok1_has_four_norms_and_no_model_type(self) -> None:
        config = {**QWEN_MOE, "architectures": ["Grok1ModelForCausalLM"]}
        del config["model_type"]
        model = read_config(config, "config.json", "small")
        assert (model.layers[0].num_norms, model.tied_embeddings) == (4, True)
        assert experts_of(model).intermediate == 128

    def test_gpt2(self) -> None:
        model = read_config(
            {"model_type": "gpt2", "n_embd": 64, "n_head": 8, "n_layer": 2, "vocab_size": 100}, "config.json", "small"
        )
        assert (model.tied_embeddings, model.learned_positions, model.layers[0].ffn.intermediate) == (True, 1024, 256)
        assert not model.layers[0].ffn.gated
        assert model.layers[0].norm_bias

    def test_mpt_learned_positions_give_way_to_alibi(self) -> None:
        config = {"model_type": "mpt", "d_model": 64, "n_heads": 8, "n_layers": 2, "vocab_size": 100}
        assert read_config(config, "config.json", "small").learned_positions == 0
        learned = {**config, "attn_config": {"alibi": False}, "max_seq_len": 512}
        assert read_config(learned, "config.json", "small").learned_positions == 512

    def test_nemotron_has_no_gate(self) -> None:
        layer = read({**LLAMA, "model_type": "nemotron"}).layers[0]
        assert not layer.ffn.gated
        assert layer.norm_bias

    def test_gpt_neox_and_phi3(self) -> None:
        assert not read({**LLAMA, "model_type": "gpt_neox"}).layers[0].ffn.gated
        assert read({**LLAMA, "model_type": "phi3"}, sliding_window=9).layers[0].attention.window == 9


BAD_FIELDS: list[tuple[Mapping[str, object], dict[str, object], str]] = [
    (LLAMA, {"hidden_size": None}, "hidden_size: missing, expected a whole number between 1 and 1000000000"),
    (LLAMA, {"hidden_size": -64}, "hidden_size: -64, expected a whole number"),
    (LLAMA, {"hidden_size": 0}, "hidden_size: 0, expected a whole number"),
    (LLAMA, {"hidden_size": "64"}, "hidden_size: '64', expected a whole number"),
    (LLAMA, {"hidden_size": 64.0}, "hidden_size: 64.0, expected a whole number"),
    (LLAMA, {"hidden_size": float("nan")}, "hidden_size: nan, expected a whole number"),
    (LLAMA, {"hidden_size": True}, "hidden_size: True, expected a whole number"),
    (LLAMA, {"hidden_size": 10**12}, "hidden_size: 1000000000000, expected a whole number"),
    (LLAMA, {"vocab_size": 10**400}, "vocab_size: a number of 1329 bits, expected a whole number"),
    (LLAMA, {"hidden_size": [64]}, r"hidden_size: \[64\], expected a whole number"),
    (LLAMA, {"num_hidden_layers": 10**6}, "num_hidden_layers: 1000000, expected a whole number between 1 and 10000"),
    (LLAMA, {"num_attention_heads": 7}, "head_dim: missing, and 7 heads do not divide a hidden size of 64"),
    (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads: 3, expected a divisor of num_attention_heads 8"),
    (LLAMA, {"tie_word_embeddings": 1}, "tie_word_embeddings: 1, expected true or false"),
    (LLAMA, {"model_type": 3}, "model_type: 3, expected a string"),
    (MIXTRAL, {"num_experts_per_tok": 5}, "num_experts_per_tok: 5, expected a whole number between 1 and 4"),
    (MIXTRAL, {"num_local_experts": None}, "num_local_experts: missing"),
    (DEEPSEEK, {"n_group": 3}, "n_group: 3, expected a divisor of n_routed_experts 8"),
    (DEEPSEEK, {"topk_group": 5}, "topk_group: 5, expected a whole number between 1 and 4"),
    (DEEPSEEK, {"num_experts_per_tok": 5, "topk_group": 2}, "moe.groups_per_token: 2 groups hold 4 experts"),
    (DEEPSEEK, {"kv_lora_rank": None}, "kv_lora_rank: missing"),
    (DBRX, {"ffn_config": None}, "ffn_config: missing, expected an object"),
    (DBRX, {"ffn_config": {"ffn_hidden_size": 8, "moe_num_experts": 2}}, "ffn_config.moe_top_k: missing"),
    (DBRX, {"attn_config": {"kv_n_heads": 5}}, "attn_config.kv_n_heads: 5, expected a divisor of n_heads 8"),
    (
        {**MIXTRAL, "model_type": "gpt_oss"},
        {"layer_types": ["full_attention"]},
        "layer_types: 1 entries, expected one for each of 4 layers",
    ),
    (
        {**MIXTRAL, "model_type": "gpt_oss"},
        {"layer_types": ["full_attention"] * 3 + ["linear"]},
        r"layer_types\[3\]: 'linear', expected full_attention",
    ),
    (
        {**QWEN_MOE, "model_type": "qwen3_moe"},
        {"num_key_value_heads": 2, "mlp_only_layers": [0, "1"]},
        r"mlp_only_layers\[1\]: '1', expected a whole number",
    ),
    (
        {**MIXTRAL, "model_type": "llama4_text"},
        {"no_rope_layers": [1, 1]},
        "no_rope_layers: 2 entries, expected one for each of 4 layers",
    ),
]


@pytest.mark.parametrize(("config", "changes", "message"), BAD_FIELDS)
def test_a_bad_field_is_named_with_its_value(
    config: Mapping[str, object], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=f"^config.json: {message}") as caught:
        read(config, **changes)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_unknown_architecture_lists_the_known_ones_nearest_first() -> None:
    with pytest.raises(ModelError, match=r"model_type: 'lama' is not an architecture known here, .* llama, ") as caught:
        read(LLAMA, model_type="lama")
    assert all(family in str(caught.value) for family in FAMILIES)


@pytest.mark.parametrize("family", ["llama", "mixtral", "deepseek_v3", "qwen3_moe"])
def test_all_missing_sizes_are_named_at_once(family: str) -> None:
    with pytest.raises(ModelError) as caught:
        read({"model_type": family, "intermediate_size": 128})
    told = str(caught.value)
    assert "\n" not in told
    assert told.count("expected") == 1
    assert all(size in told for size in SIZES)


def test_a_wrong_size_is_told_alone() -> None:
    with pytest.raises(ModelError) as caught:
        read({"model_type": "llama", "num_attention_heads": -1})
    assert "missing" not in str(caught.value)


@pytest.mark.parametrize("architectures", [None, [], ["BertModel"], [3], ["ForCausalLM"]])
def test_no_architecture_at_all(architectures: object) -> None:
    with pytest.raises(ModelError, match=r"config.json: model_type: missing, expected one of "):
        read(LLAMA, model_type=None, architectures=architectures)


class TestFiles:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"none.json: no such file, expected a Hugging Face config.json"):
            read_config_file(tmp_path / "none.json")

    def test_directory_without_a_config(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"config.json: no such file"):
            read_config_file(tmp_path)

    def test_directory_in_the_place_of_the_config(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").mkdir()
        with pytest.raises(ModelError, match="cannot be read: Is a directory"):
            read_config_file(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"hello", json.dumps(LLAMA).encode()[:-20], b'{"a": \xff}', b"[" * 100_000, b"9" * 10_000],
        ids=["empty", "text", "truncated", "not utf-8", "deep", "long number"],
    )
    def test_not_json(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "config.json"
        file.write_bytes(content)
        with pytest.raises(ModelError, match=r"config.json: not JSON: ") as caught:
            read_config_file(file)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "kind"),
        [("[1]", "array"), ('"llama"', "string"), ("3", "number"), ("null", "null"), ("true", "boolean")],
    )
    def test_json_that_is_no_object(self, tmp_path: Path, content: str, kind: str) -> None:
        file = tmp_path / "config.json"
        file.write_text(content)
        with pytest.raises(ModelError, match=f"holds a JSON {kind}, expected an object"):
            read_config_file(file)

    def test_nan_in_the_file_is_named_by_its_field(self, tmp_path: Path) -> None:
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**LLAMA, "vocab_size": float("nan")}))
        with pytest.raises(ModelError, match=r"config.json: vocab_size: nan, expected a whole number"):
            read_config_file(file)

    def test_a_file_gives_its_directory_s_or_its_own_name(self, tmp_path: Path) -> None:
        (tmp_path / "my-model").mkdir()
        for file in (tmp_path / "my-model" / "config.json", tmp_path / "other.json"):
            file.write_text(json.dumps(LLAMA))
        assert read_config_file(tmp_path / "my-model").name == "my-model"
        assert read_config_file(tmp_path / "other.json").name == "other"
