"""The config.json of a model that is written: a family that has such models, found by reading it back."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.huggingface import read_config
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, ModelSpec, MoeFfnSpec
from meshwright.executor.layer.rope_scaling import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling
from meshwright.executor.weights.families import FAMILIES, Family
from meshwright.executor.weights.numerics import MLA_FAMILIES, ModelNumerics, read_numerics

Config = dict[str, object]
NUM_EXPERTS = {"mixtral": "num_local_experts", "qwen3_moe": "num_experts"}


def family_and_config(model: ModelSpec, numerics: ModelNumerics, max_length: int) -> tuple[Family, Config]:
    """A family that has this very model, with its config.json; raises `ModelError` where none has.

    `max_length` becomes `max_position_embeddings`.
    """
    for family in FAMILIES:
        config = _config(family, model, numerics, max_length)
        if _describes(config, model, numerics):
            return family, config
    names = ", ".join(family.model_type for family in FAMILIES)
    raise ModelError(model.name, "layers", f"no Hugging Face family among {names} has such layers and numerics")


def _describes(config: Config, model: ModelSpec, numerics: ModelNumerics) -> bool:
    try:
        again = read_config(config, "config.json", model.name)
        same_numerics = read_numerics(config, "config.json") == numerics
    except ModelError:
        return False
    return same_numerics and msgspec.structs.replace(again, source=model.source) == model


def _config(family: Family, model: ModelSpec, numerics: ModelNumerics, max_length: int) -> Config:
    attention = model.layers[-1].attention
    config: Config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": model.vocab,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": numerics.norm_epsilon,
        "tie_word_embeddings": model.tied_embeddings,
        "max_position_embeddings": max_length,
        "rope_theta": numerics.rope_theta,
        "rope_scaling": _rope(numerics.rope_scaling),
        "sliding_window": attention.window or None,
    }
    if family.model_type != "qwen2":  # its biases are no choice
        config["attention_bias"] = attention.qkv_bias
    dense = [layer.ffn for layer in model.layers if isinstance(layer.ffn, DenseFfnSpec)]
    experts = [layer.ffn for layer in model.layers if isinstance(layer.ffn, MoeFfnSpec)]
    if family.model_type in MLA_FAMILIES:
        config |= _latent(attention)
    else:
        config["head_dim"] = attention.head_dim
    config["intermediate_size"] = dense[0].intermediate if dense else experts[0].intermediate
    if dense:
        config["mlp_bias"] = dense[0].bias
    if experts:
        config |= _experts(family, model, experts[0], numerics)
    return config


def _latent(attention: AttentionSpec) -> Config:
    return {
        "q_lora_rank": attention.query_lora_rank or None,
        "kv_lora_rank": attention.kv_lora_rank,
        "qk_nope_head_dim": attention.nope_head_dim,
        "qk_rope_head_dim": attention.rope_head_dim,
        "v_head_dim": attention.value_head_dim,
    }


def _experts(family: Family, model: ModelSpec, moe: MoeFfnSpec, numerics: ModelNumerics) -> Config:
    config: Config = {
        NUM_EXPERTS.get(family.model_type, "n_routed_experts"): moe.num_experts,
        "num_experts_per_tok": moe.top_k,
    }
    if family.model_type == "mixtral":
        return config
    config |= {"moe_intermediate_size": moe.intermediate, "norm_topk_prob": numerics.routing.normalize}
    dense = [index for index, layer in enumerate(model.layers) if not layer.is_moe]
    if family.model_type == "qwen3_moe":
        return {**config, "mlp_only_layers": dense, "decoder_sparse_step": 1}
    config |= {
        "first_k_dense_replace": len(dense),
        "moe_layer_freq": 1,
        "n_shared_experts": moe.shared_intermediate // moe.intermediate,
        "routed_scaling_factor": numerics.routing.scale,
        "n_group": moe.num_expert_groups,
        "topk_group": moe.groups_per_token,
        "num_nextn_predict_layers": model.mtp_depth,
    }
    if family.model_type == "deepseek_v2":
        config["topk_method"] = "group_limited_greedy" if moe.num_expert_groups > 1 else "greedy"
    return config


def _rope(scaling: RopeScaling) -> Config | None:
    """The object `rope_scaling`."""
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    if isinstance(scaling, Llama3Scaling):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    if isinstance(scaling, YarnScaling):
        config: Config = {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "original_max_position_embeddings": scaling.original_length,
            "truncate": scaling.truncate,
        }
        optional = ("attention_factor", "mscale", "mscale_all_dim")
        return config | {name: getattr(scaling, name) for name in optional if getattr(scaling, name)}
    return None
