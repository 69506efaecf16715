"""Parameter counts against published ones, each with where it was read."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import msgspec
import pytest

from meshwright.costmodel.formulas.parameters import (
    active_parameters,
    attention_parameters,
    embedding_parameters,
    head_parameters,
    layer_parameters,
    mtp_parameters,
    router_parameters,
    total_parameters,
)
from meshwright.costmodel.model import AttentionSpec, ModelSpec, MoeFfnSpec, with_num_layers
from meshwright.costmodel.presets import load_model

EXACT_TOTALS = [
    # Hugging Face lists these as "params" beside the safetensors files (bytes of the index / 2 for bf16)
    ("llama-2-7b", 6_738_415_616, "huggingface.co/meta-llama/Llama-2-7b-hf"),
    ("llama-2-13b", 13_015_864_320, "huggingface.co/meta-llama/Llama-2-13b-hf"),
    ("llama-2-70b", 68_976_648_192, "huggingface.co/meta-llama/Llama-2-70b-hf"),
    ("llama-3.1-8b", 8_030_261_248, "huggingface.co/meta-llama/Llama-3.1-8B"),
    ("llama-3.1-70b", 70_553_706_496, "huggingface.co/meta-llama/Llama-3.1-70B"),
    ("llama-3.1-405b", 405_853_388_800, "huggingface.co/meta-llama/Llama-3.1-405B"),
    ("llama-3.2-1b", 1_235_814_400, "huggingface.co/meta-llama/Llama-3.2-1B"),
    ("llama-3.2-3b", 3_212_749_824, "huggingface.co/meta-llama/Llama-3.2-3B"),
    ("mistral-7b", 7_241_732_096, "huggingface.co/mistralai/Mistral-7B-v0.1"),
    ("mixtral-8x7b", 46_702_792_704, "huggingface.co/mistralai/Mixtral-8x7B-v0.1"),
    ("qwen2-7b", 7_615_616_512, "huggingface.co/Qwen/Qwen2-7B"),
    ("qwen2-72b", 72_706_203_648, "huggingface.co/Qwen/Qwen2-72B"),
    ("qwen3-8b", 8_190_735_360, "huggingface.co/Qwen/Qwen3-8B"),
    ("qwen3-32b", 32_762_123_264, "huggingface.co/Qwen/Qwen3-32B"),
    ("qwen3-30b-a3b", 30_532_122_624, "huggingface.co/Qwen/Qwen3-30B-A3B"),
    ("qwen3-235b-a22b", 235_093_634_560, "huggingface.co/Qwen/Qwen3-235B-A22B"),
    ("deepseek-v2-lite", 15_706_484_224, "huggingface.co/deepseek-ai/DeepSeek-V2-Lite"),
    # "NumParams" of the H100 table, sequence length 2048
    ("mpt-760m", 760_470_528, "mosaicml/llm-foundry scripts/train/benchmarking/README.md"),
    ("mpt-1b", 1_315_950_592, "mosaicml/llm-foundry scripts/train/benchmarking/README.md"),
    ("mpt-3b", 2_651_837_440, "mosaicml/llm-foundry scripts/train/benchmarking/README.md"),
    ("mpt-7b", 6_658_859_008, "mosaicml/llm-foundry scripts/train/benchmarking/README.md"),
    ("mpt-13b", 12_853_954_560, "mosaicml/llm-foundry scripts/train/benchmarking/README.md"),
    ("mpt-30b", 29_975_214_080, "mosaicml/llm-foundry scripts/train/benchmarking/README.md"),
    ("mpt-70b", 64_862_437_376, "mosaicml/llm-foundry scripts/train/benchmarking/README.md"),
]

Count = Callable[[ModelSpec], int]


def everything(model: ModelSpec) -> int:
    """All that is stored; published totals leave multi-token prediction out."""
    return total_parameters(model)


def without_embedding_and_head(model: ModelSpec) -> int:
    return total_parameters(model) - embedding_parameters(model) - head_parameters(model)


def embedding_and_head(model: ModelSpec) -> int:
    return embedding_parameters(model) + head_parameters(model)


def with_vision_tower(model: ModelSpec) -> int:
    """The full model's vision tower and projector: 871,932,416, the same in Scout and Maverick."""
    return total_parameters(model) + 871_932_416


def with_fp8_scales(model: ModelSpec) -> int:
    """The published file stores one scale for each 128 x 128 block of an FP8 matrix."""
    return total_parameters(model) + 62_498_608


def with_mtp(model: ModelSpec) -> int:
    """The published files repeat embedding and head for the multi-token-prediction module."""
    return total_parameters(model) + mtp_parameters(model) + embedding_and_head(model)


PUBLISHED_TOTALS: list[tuple[str, str, Count, str]] = [
    ("llama-3.1-8b", "8.03", everything, "model card"),
    ("llama-3.1-70b", "70.55", everything, "model card, 70.6B"),
    ("llama-3.1-405b", "405.9", everything, "safetensors"),
    ("mixtral-8x7b", "46.7", everything, "mistral.ai/news/mixtral-of-experts"),
    ("mixtral-8x22b", "140.6", everything, "mistral.ai/news/mixtral-8x22b, 141B; safetensors"),
    ("qwen2-57b-a14b", "57.41", everything, "arXiv 2407.10671 table 1, 57B; safetensors"),
    ("qwen1.5-moe-a2.7b", "14.3", everything, "model card"),
    ("qwen3-30b-a3b", "30.5", everything, "model card"),
    ("qwen3-30b-a3b", "29.9", without_embedding_and_head, "model card, non-embedding"),
    ("qwen3-235b-a22b", "235", everything, "model card"),
    ("qwen3-235b-a22b", "234", without_embedding_and_head, "model card, non-embedding"),
    ("deepseek-moe-16b", "16.4", everything, "arXiv 2401.06066 table 3"),
    ("deepseek-v2", "236", everything, "arXiv 2405.04434 abstract"),
    ("deepseek-v2-lite", "15.7", everything, "arXiv 2405.04434 appendix B"),
    ("deepseek-v3", "671", everything, "arXiv 2412.19437 abstract"),
    ("deepseek-v3", "685", with_mtp, "model card: 671B main model and 14B of multi-token prediction"),
    ("kimi-k2", "1026.47", with_fp8_scales, "huggingface.co/moonshotai/Kimi-K2-Base, safetensors"),
    ("gpt-oss-20b", "20.91", everything, "arXiv 2508.10925 table 1"),
    ("gpt-oss-120b", "116.83", everything, "arXiv 2508.10925 table 1"),
    ("gpt-oss-120b", "1.16", embedding_and_head, "arXiv 2508.10925 table 1, embed and unembed"),
    ("phi-3.5-moe", "41.9", everything, "arXiv 2404.14219 section 5, 42B; safetensors"),
    ("hunyuan-large", "389", everything, "arXiv 2411.02265 abstract"),
    ("dbrx", "132", everything, "databricks.com/blog/introducing-dbrx"),
    (
        "grok-1",
        "314",
        without_embedding_and_head,
        "github.com/xai-org/grok-1; 314.9B without the embedding, 315.7B with",
    ),
    ("llama-4-scout", "108.64", with_vision_tower, "huggingface.co/meta-llama/Llama-4-Scout-17B-16E, safetensors"),
    (
        "llama-4-maverick",
        "401.58",
        with_vision_tower,
        "huggingface.co/meta-llama/Llama-4-Maverick-17B-128E, safetensors",
    ),
    ("llama-4-maverick", "400", everything, "ai.meta.com/blog/llama-4-multimodal-intelligence"),
    ("nemotron4-15b", "12.5", without_embedding_and_head, "arXiv 2402.16819 section 2"),
    ("nemotron4-340b", "331.6", without_embedding_and_head, "arXiv 2406.11704 section 2"),
    ("nemotron4-340b", "9.4", embedding_and_head, "arXiv 2406.11704 section 2"),
    ("gpt3-175b", "174.6", everything, "arXiv 2005.14165 table D.1"),
    ("kempner-7b", "8.03", everything, "KempnerInstitute/KempnerForge log"),
    ("kempner-13b", "14.84", everything, "KempnerInstitute/KempnerForge log"),
    ("kempner-29b", "28.7", everything, "KempnerInstitute/KempnerForge log"),
    ("kempner-70b", "70.55", everything, "KempnerInstitute/KempnerForge log"),
    ("nanotron-1.34b", "1.34", everything, "huggingface/nanotron docs/benchmark_summary.svg"),
    ("nanotron-3.57b", "3.57", everything, "huggingface/nanotron docs/benchmark_summary.svg"),
    ("nanotron-8.86b", "8.86", everything, "huggingface/nanotron docs/benchmark_summary.svg"),
    ("nanotron-80b", "80", everything, "huggingface/nanotron docs/benchmark_summary.svg"),
    ("internal-352b-no-shared", "341.3", everything, "arXiv 2505.11432 table 2, arithmetic of the printed sizes"),
    ("internal-352b", "352", everything, "arXiv 2505.11432, the model's name"),
]


def active(model: ModelSpec) -> int:
    return active_parameters(model)


def active_without_embedding(model: ModelSpec) -> int:
    """The look-up multiplies nothing; the head does."""
    return active_parameters(model) - embedding_parameters(model)


def active_without_router(model: ModelSpec) -> int:
    return active_parameters(model) - _router_parameters(model)


def active_without_embedding_and_router(model: ModelSpec) -> int:
    return active_without_embedding(model) - _router_parameters(model)


def active_with_tied_head(model: ModelSpec) -> int:
    """The matrix that is both embedding and head counted at both places."""
    assert model.tied_embeddings
    return active_parameters(model) + model.vocab * model.hidden


def _router_parameters(model: ModelSpec) -> int:
    return sum(layer_parameters(layer, model.hidden).router for layer in model.layers)


# What a publisher counts as active is rarely said; where the column is not `active`, it is the reading that agrees.
PUBLISHED_ACTIVE: list[tuple[str, str, Count, str]] = [
    ("mixtral-8x7b", "12.9", active, "mistral.ai/news/mixtral-of-experts"),
    ("mixtral-8x22b", "39", active, "mistral.ai/news/mixtral-8x22b"),
    ("qwen2-57b-a14b", "14", active, "arXiv 2407.10671 table 1"),
    ("qwen1.5-moe-a2.7b", "2.7", active, "model card"),
    ("qwen3-30b-a3b", "3.3", active_without_router, "model card"),
    ("qwen3-235b-a22b", "22", active, "model card"),
    ("deepseek-moe-16b", "2.8", active, "arXiv 2401.06066 table 3"),
    ("deepseek-v2", "21", active, "arXiv 2405.04434 abstract"),
    ("deepseek-v2-lite", "2.4", active_without_embedding_and_router, "arXiv 2405.04434 appendix B"),
    ("deepseek-v3", "37", active_without_embedding, "arXiv 2412.19437 abstract"),
    ("kimi-k2", "32", active_without_embedding, "github.com/MoonshotAI/Kimi-K2"),
    ("gpt-oss-20b", "3.61", active_without_embedding, "arXiv 2508.10925 table 1: unembedding counted, embedding not"),
    ("gpt-oss-120b", "5.13", active_without_embedding, "arXiv 2508.10925 table 1: unembedding counted, embedding not"),
    ("phi-3.5-moe", "6.6", active, "arXiv 2404.14219 section 5"),
    ("hunyuan-large", "52", active_with_tied_head, "arXiv 2411.02265 abstract"),
    ("dbrx", "36", active, "databricks.com/blog/introducing-dbrx"),
    ("llama-4-scout", "17", active, "ai.meta.com/blog/llama-4-multimodal-intelligence"),
    ("llama-4-maverick", "17", active, "ai.meta.com/blog/llama-4-multimodal-intelligence"),
]


@pytest.mark.parametrize(("name", "expected", "source"), EXACT_TOTALS)
def test_total_is_exactly_the_published_count(name: str, expected: int, source: str) -> None:
    assert total_parameters(load_model(name)) == expected, source


@pytest.mark.parametrize(("name", "billions", "count", "source"), [*PUBLISHED_TOTALS, *PUBLISHED_ACTIVE])
def test_count_agrees_with_the_published_figure(name: str, billions: str, count: Count, source: str) -> None:
    """Within 0.5 %, or where the figure has too few digits for that, it must round to the figure."""
    published = float(billions)
    half_last_digit = 0.5 * 10.0 ** int(Decimal(billions).as_tuple().exponent)
    difference = abs(count(load_model(name)) / 1e9 - published)
    assert difference <= max(0.005 * published, half_last_digit), source


def test_deepseek_v2_lite_as_torchtitan_builds_it() -> None:
    """torchtitan's 16B flavour has a vocabulary of 129,280; its log prints both counts."""
    model = msgspec.structs.replace(load_model("deepseek-v2-lite"), vocab=129_280)
    assert total_parameters(model) == 15_816_584_704
    assert active_parameters(model) == 2_771_250_688


@pytest.mark.parametrize(("seq_len", "expected"), [(512, 758_111_232), (8192, 769_907_712), (32768, 807_656_448)])
def test_learned_positions_grow_with_the_sequence(seq_len: int, expected: int) -> None:
    """mosaicml/llm-foundry scripts/train/benchmarking/README.md, 760m."""
    model = msgspec.structs.replace(load_model("mpt-760m"), learned_positions=seq_len)
    assert total_parameters(model) == expected


def test_deepseek_v3_by_hand() -> None:
    """One sparse layer: MLA 187,107,328; 256 + 1 experts of 3 * 7168 * 2048; router 7168 * 256 and its 256 biases."""
    model = load_model("deepseek-v3")
    sparse = layer_parameters(model.layers[-1], model.hidden)
    query = 7168 * 1536 + 1536 + 1536 * 128 * 192
    key_value = 7168 * 576 + 512 + 512 * 128 * 256
    assert sparse.attention == query + key_value + 128 * 128 * 7168
    assert sparse.routed_experts == 256 * 3 * 7168 * 2048
    assert sparse.shared_experts == 3 * 7168 * 2048
    assert sparse.router == 7168 * 256 + 256
    assert sparse.norms == 2 * 7168
    assert sparse.dense_ffn == 0
    assert layer_parameters(model.layers[0], model.hidden).dense_ffn == 3 * 7168 * 18432
    assert mtp_parameters(model) == sparse.total + 2 * 7168 * 7168 + 3 * 7168


def test_gpt_oss_attention_by_hand() -> None:
    """Biases on all four projections and one sink a head."""
    attention = load_model("gpt-oss-20b").layers[0].attention
    matrices = 2880 * (64 + 8 + 8) * 64 + 64 * 64 * 2880
    assert attention_parameters(attention, 2880) == matrices + (64 + 8 + 8) * 64 + 2880 + 64


def test_shared_keys_and_values_have_no_projections() -> None:
    own, shared = load_model("hunyuan-large").layers[:2]
    difference = layer_parameters(own, 6400).attention - layer_parameters(shared, 6400).attention
    assert difference == 2 * 6400 * 8 * 80 + 80  # key and value matrices, key norm


def test_qk_norm_without_weights_has_no_parameters() -> None:
    attention = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, value_head_dim=8, qk_norm=True)
    plain = msgspec.structs.replace(attention, qk_norm=False)
    bare = msgspec.structs.replace(attention, qk_norm_weights=False)
    assert attention_parameters(attention, 32) - attention_parameters(plain, 32) == 16
    assert attention_parameters(bare, 32) == attention_parameters(plain, 32)


def test_router_biases() -> None:
    moe = MoeFfnSpec(num_experts=4, top_k=2, intermediate=8, router_bias=True, score_correction_bias=True)
    assert router_parameters(moe, 10) == 4 * 10 + 4 + 4


def test_dense_model_is_wholly_active() -> None:
    model = load_model("llama-3.1-8b")
    assert active_parameters(model) == total_parameters(model)


def test_shortened_model_loses_exactly_its_layers() -> None:
    """Grok-1 rows below 512 GPUs were measured with fewer layers."""
    whole = load_model("grok1-314b")
    short = with_num_layers(whole, 16)
    assert total_parameters(whole) - total_parameters(short) == 48 * layer_parameters(whole.layers[0], 6144).total
