"""Laws of models: reading never fails otherwise than said, and counts add up layer by layer."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.formulas.flops import attention_pairs, flops_per_token, layer_flops
from meshwright.costmodel.formulas.parameters import (
    active_layer_parameters,
    active_parameters,
    layer_parameters,
    total_parameters,
)
from meshwright.costmodel.huggingface import FAMILIES, read_config
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec, with_num_layers
from meshwright.costmodel.presets import load_model, preset_names

FIELDS = (
    "hidden_size",
    "intermediate_size",
    "intermediate_size_mlp",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "attention_head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "attention_bias",
    "mlp_bias",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "decoder_sparse_step",
    "mlp_only_layers",
    "n_routed_experts",
    "n_shared_experts",
    "n_group",
    "topk_group",
    "topk_method",
    "first_k_dense_replace",
    "moe_layer_freq",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "num_nextn_predict_layers",
    "moe_topk",
    "num_shared_expert",
    "use_mixed_mlp_moe",
    "use_cla",
    "cla_share_factor",
    "n_embd",
    "n_head",
    "n_layer",
    "n_inner",
    "n_positions",
    "d_model",
    "n_heads",
    "n_layers",
    "expansion_ratio",
    "max_seq_len",
    "no_bias",
    "attn_config",
    "ffn_config",
    "text_config",
    "moe_layers",
    "no_rope_layers",
    "architectures",
    "meshwright_source",
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-2, max_value=130)
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["full_attention", "sliding_attention", "group_limited_greedy", "LlamaForCausalLM"])
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)
sensible_sizes = st.sampled_from([1, 2, 4, 8, 16, 64])


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Any JSON object, or one of a known family with mostly sensible and some wild fields."""
    if draw(st.booleans()):
        return draw(st.dictionaries(st.text(max_size=12) | st.sampled_from([*FIELDS, "model_type"]), json_values))
    sensible = draw(
        st.fixed_dictionaries({name: sensible_sizes for name in FIELDS if name.startswith(("n", "h", "i"))})
    )
    wild = draw(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4))
    return {"vocab_size": 10, **sensible, **wild, "model_type": draw(st.sampled_from(sorted(FAMILIES)))}


attentions = st.builds(
    lambda groups, per_group, size, flags: AttentionSpec(
        num_heads=groups * per_group, num_kv_heads=groups, head_dim=size, value_head_dim=size, **flags
    ),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 64),
    st.fixed_dictionaries(
        {name: st.booleans() for name in ("qk_norm", "qkv_bias", "output_bias", "sinks", "shares_key_value")}
    ),
)
dense_blocks = st.builds(DenseFfnSpec, intermediate=st.integers(1, 500), gated=st.booleans(), bias=st.booleans())
expert_blocks = st.builds(
    lambda top_k, others, width, shared: MoeFfnSpec(
        num_experts=top_k + others, top_k=top_k, intermediate=width, shared_intermediate=shared
    ),
    st.integers(1, 8),
    st.integers(0, 56),
    st.integers(1, 500),
    st.integers(0, 500),
)
layers = st.builds(
    LayerSpec,
    attention=attentions,
    ffn=dense_blocks | expert_blocks,
    num_norms=st.integers(1, 4),
    norm_bias=st.booleans(),
)
models = st.builds(
    ModelSpec,
    name=st.just("drawn"),
    hidden=st.integers(1, 512),
    vocab=st.integers(1, 1000),
    layers=st.lists(layers, min_size=1, max_size=5).map(tuple),
    tied_embeddings=st.booleans(),
    head_bias=st.booleans(),
    learned_positions=st.integers(0, 100),
)


@given(configs())
def test_reading_gives_a_model_or_a_model_error_of_one_line(config: dict[str, Any]) -> None:
    outcome = read_or_error(config)
    if isinstance(outcome, ModelError):
        assert outcome.where == "config.json"
        assert "\n" not in str(outcome)
    else:
        assert 0 < active_parameters(outcome) <= total_parameters(outcome)


def read_or_error(config: dict[str, Any]) -> ModelSpec | ModelError:
    try:
        return read_config(config, "config.json", "drawn")
    except ModelError as error:
        return error


@given(models, layers)
def test_a_layer_more_adds_exactly_its_parameters_and_flops(model: ModelSpec, layer: LayerSpec) -> None:
    layer = msgspec.structs.replace(layer, norm_bias=model.layers[-1].norm_bias)  # the final norm is of the last kind
    longer = msgspec.structs.replace(model, layers=(*model.layers, layer))
    assert total_parameters(longer) - total_parameters(model) == layer_parameters(layer, model.hidden).total
    assert active_parameters(longer) - active_parameters(model) == active_layer_parameters(layer, model.hidden)
    added = flops_per_token(longer, 128) - flops_per_token(model, 128)
    assert added == 3 * layer_flops(layer, model.hidden, 128)  # sizes here are small enough to be exact in a float


@given(models)
def test_parts_of_a_layer_sum_to_it(model: ModelSpec) -> None:
    for layer in model.layers:
        parts = layer_parameters(layer, model.hidden)
        assert parts.total == sum(msgspec.structs.astuple(parts))
        assert parts.replicated + parts.routed_experts == parts.total
        assert (parts.dense_ffn == 0) == layer.is_moe


@given(st.sampled_from(preset_names()), st.data())
def test_a_shortened_model_starts_like_the_whole_one(name: str, data: st.DataObject) -> None:
    whole = load_model(name)
    short = with_num_layers(whole, data.draw(st.integers(1, whole.num_layers)))
    assert short.layers == whole.layers[: short.num_layers]
    assert total_parameters(short) <= total_parameters(whole)


@given(st.integers(1, 5000), st.integers(0, 6000), st.integers(0, 6000))
def test_windows_and_chunks_only_take_pairs_away(seq_len: int, window: int, chunk: int) -> None:
    full = AttentionSpec(num_heads=1, num_kv_heads=1, head_dim=1, value_head_dim=1)
    limited = msgspec.structs.replace(full, window=window, chunk=chunk)
    assert 0 < attention_pairs(limited, seq_len) <= attention_pairs(full, seq_len) == seq_len**2 / 2
