"""Tiny random models of every family, made and saved by transformers, and their forward by our layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.layer.run import LayerRunner
from meshwright.executor.weights.numerics import ModelNumerics

if TYPE_CHECKING:
    from transformers import PreTrainedModel

os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)  # the tensors are tiny

SEQ_LEN, BATCH = 24, 2
COMMON: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = COMMON | {
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 1.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
QWEN3_MOE = COMMON | {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 12}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", COMMON | {"rms_norm_eps": 1e-3}),
    "llama, tied, biases, stretched": (
        "llama",
        COMMON | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3},
    ),
    "mistral": ("mistral", COMMON | {"sliding_window": None}),
    "qwen2": ("qwen2", COMMON),
    "qwen3": (
        "qwen3",
        COMMON | {"head_dim": 12, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}},
    ),
    "mixtral": ("mixtral", COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3 moe": ("qwen3_moe", QWEN3_MOE | {"norm_topk_prob": True}),
    "qwen3 moe, dense layer, plain weights": ("qwen3_moe", QWEN3_MOE | {"mlp_only_layers": [1]}),
    "deepseek v2": (
        "deepseek_v2",
        LATENT | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 1.7, "rms_norm_eps": 1e-4},
    ),
    "deepseek v2, direct query, greedy, stretched": (
        "deepseek_v2",
        LATENT
        | {"q_lora_rank": None, "topk_method": "greedy", "n_group": None, "topk_group": None, "rope_parameters": YARN},
    ),
    "deepseek v3": ("deepseek_v3", LATENT | {"num_mtp_layers": 0, "rope_parameters": YARN}),
    "deepseek v3, biases, plain weights, halves": (
        "deepseek_v3",
        LATENT | {"num_mtp_layers": 0, "norm_topk_prob": False, "attention_bias": True, "rope_interleave": False},
    ),
}


def make_model(model_type: str, config: Mapping[str, Any]) -> PreTrainedModel:
    """A model of transformers with random parameters, none of them one or zero."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(11)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **config), attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            is_norm = "norm" in name
            tensor.copy_(torch.randn_like(tensor) * (0.2 if tensor.dim() == 1 else 0.15) + is_norm)
    model.eval()
    return model


def tokens() -> Tensor:
    """(B, S)."""
    return torch.randint(0, COMMON["vocab_size"], (BATCH, SEQ_LEN), generator=torch.Generator().manual_seed(5))


def logits_by_layers(
    model: ModelSpec, numerics: ModelNumerics, weights: Mapping[str, Tensor], ids_BS: Tensor
) -> Tensor:
    """The model's logits, (B, S, V), by a `LayerRunner` for every layer."""
    hidden = F.embedding(ids_BS.t().flatten(), weights["embedding"])  # sequence-major
    for index, layer in enumerate(model.layers):
        prefix = f"layers.{index}."
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        setting = ProgramSetting(
            hidden=model.hidden,
            micro_batch=ids_BS.shape[0],
            seq_len=ids_BS.shape[1],
            strategy=LayerStrategy(),
            gpus_per_node=8,
        )
        context = LayerContext(
            layer=layer,
            setting=setting,
            device=torch.device("cpu"),
            dtype=torch.float32,
            routing=numerics.routing,
            norm_epsilon=numerics.norm_epsilon,
            latent_norm_epsilon=numerics.latent_norm_epsilon,
            rope_theta=numerics.rope_theta,
            rope_scaling=numerics.rope_scaling,
        )
        runner = LayerRunner(build_layer(layer, setting), context, Parameters(own))
        batch = runner.start(hidden)
        batch.run(runner.forward)
        hidden = batch.output
    normed = F.rms_norm(hidden, hidden.shape[-1:], weights["final_norm"], numerics.norm_epsilon)
    logits = normed @ weights["embedding" if model.tied_embeddings else "head"].t()
    by_position: Tensor = logits.unflatten(0, (ids_BS.shape[1], -1))
    return by_position.transpose(0, 1)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], tuple[PreTrainedModel, Path]]:
    """Makes a model of transformers and saves it."""

    def save(name: str) -> tuple[PreTrainedModel, Path]:
        model_type, config = FAMILIES[name]
        model, folder = make_model(model_type, config), tmp_path / "saved"
        model.save_pretrained(folder)
        return model, folder

    return save
