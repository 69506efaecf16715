"""Model FLOPs: the stated convention, part by part."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.formulas.flops import (
    attention_pairs,
    attention_score_flops,
    ffn_multiply_adds,
    flops_per_token,
    flops_per_token_by_part,
    head_flops,
    layer_flops,
    linear_flops,
    model_flops_utilization,
)
from meshwright.costmodel.formulas.parameters import total_parameters
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, MoeFfnSpec
from meshwright.costmodel.presets import load_model

ATTENTION = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, value_head_dim=8)


@pytest.mark.parametrize(
    ("name", "giga_flops"),
    [
        ("internal-352b", 282.5),  # arXiv 2505.11432, from the stated MFU
        ("internal-352b-no-shared", 219.0),  # the table as printed
    ],
)
def test_the_paper_s_flops_per_token(name: str, giga_flops: float) -> None:
    assert flops_per_token(load_model(name), 8192) / 1e9 == pytest.approx(giga_flops, rel=0.0005)


@pytest.mark.parametrize(
    ("num_gpus", "tokens_per_s", "stated"),
    [(240, 272.9e3, 0.3248), (1440, 1407.7e3, 0.2789)],
)
def test_the_paper_s_mfu(num_gpus: int, tokens_per_s: float, stated: float) -> None:
    """arXiv 2505.11432 table 3, H800 at 989 TFLOP/s: both stated figures follow from the shared expert's FLOPs."""
    per_token = flops_per_token(load_model("internal-352b"), 8192)
    mfu = model_flops_utilization(per_token, tokens_per_s, num_gpus, 989e12)
    assert mfu == pytest.approx(stated, rel=0.002)


def test_dense_model_is_six_flops_a_parameter_plus_scores() -> None:
    """Of Llama-3.1-8B only the embedding look-up and the norms are not multiplied with."""
    model = load_model("llama-3.1-8b")
    multiplied = total_parameters(model) - model.vocab * model.hidden - (2 * 32 + 1) * model.hidden
    parts = flops_per_token_by_part(model, 4096)
    assert parts.linear + parts.head == 6 * multiplied
    assert parts.attention_scores == 3 * 32 * 2 * 32 * (128 + 128) * 4096 / 2
    assert flops_per_token(model, 4096) == parts.linear + parts.head + parts.attention_scores


def test_tied_head_counts_as_much_as_an_untied_one() -> None:
    model = load_model("qwen2-0.5b")
    untied = msgspec.structs.replace(model, tied_embeddings=False)
    assert flops_per_token(model, 2048) == flops_per_token(untied, 2048)
    assert flops_per_token_by_part(model, 2048).head == 3 * 2 * 896 * 151936 == 3 * head_flops(model)


def test_only_chosen_and_shared_experts_count() -> None:
    moe = MoeFfnSpec(num_experts=64, top_k=6, intermediate=10, shared_intermediate=20, shared_gate=True)
    assert ffn_multiply_adds(moe, 100) == 3 * 100 * (6 * 10 + 20) + 100 * 64 + 100


def test_ungated_block_has_two_matrices_and_biases_are_free() -> None:
    assert ffn_multiply_adds(DenseFfnSpec(intermediate=40, gated=False, bias=True), 10) == 2 * 10 * 40


def test_window_counts_the_cut_triangle() -> None:
    """Brute force over a small mask: pairs inside the window, minus half of the diagonal's two corners."""
    seq_len, window = 64, 16
    windowed = msgspec.structs.replace(ATTENTION, window=window)
    inside = sum(1 for query in range(seq_len) for key in range(query + 1) if query - key < window)
    assert attention_pairs(windowed, seq_len) == inside - window / 2


def test_chunks_count_one_triangle_each() -> None:
    chunked = msgspec.structs.replace(ATTENTION, chunk=10)
    assert attention_pairs(chunked, 25) == 50 + 50 + 12.5
    assert attention_pairs(chunked, 10) == attention_pairs(ATTENTION, 10) == 50
    assert attention_pairs(msgspec.structs.replace(chunked, window=4), 20) == 2 * (10 * 4 - 8)


def test_window_of_the_whole_sequence_is_full_attention() -> None:
    assert attention_pairs(msgspec.structs.replace(ATTENTION, window=100), 100) == 5000


def test_value_heads_of_their_own_size() -> None:
    """MLA: scores over 192 elements, values over 128."""
    attention = load_model("deepseek-v3").layers[0].attention
    assert attention_score_flops(attention, 4096) == 2 * 128 * (192 + 128) * 4096 / 2


def test_multi_token_prediction_is_a_layer_a_projection_and_a_head() -> None:
    model = load_model("deepseek-v3")
    without = msgspec.structs.replace(model, mtp_depth=0)
    module = layer_flops(model.layers[-1], 7168, 4096) + 2 * 2 * 7168**2 + head_flops(model)
    assert flops_per_token(model, 4096) - flops_per_token(without, 4096) == pytest.approx(3 * module, rel=1e-9)


def test_layers_sharing_keys_and_values_do_less() -> None:
    own, shared = load_model("hunyuan-large").layers[:2]
    assert linear_flops(own, 6400) - linear_flops(shared, 6400) == 2 * 2 * 6400 * 8 * 80


def test_gpt_oss_alternates_window_and_full() -> None:
    sliding, full = load_model("gpt-oss-120b").layers[:2]
    assert attention_score_flops(full.attention, 8192) == 2 * 64 * 128 * 4096
    assert attention_score_flops(sliding.attention, 8192) == 2 * 64 * 128 * (128 - 128**2 / 2 / 8192)
