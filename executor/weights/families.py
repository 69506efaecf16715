"""The Hugging Face families whose weights can be read and written."""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.costmodel.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertNames:
    """Names of the block of experts and of an expert's matrices in a checkpoint."""

    block: str
    gate: str
    up: str
    down: str


PROJECTIONS = ExpertNames(block="mlp", gate="gate_proj", up="up_proj", down="down_proj")
MIXTRAL = ExpertNames(block="block_sparse_moe", gate="w1", up="w3", down="w2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A `model_type`, its class, and the defaults of its configuration class that shapes do not show.

    `reads_normalize`: its code reads `norm_topk_prob`; otherwise `normalize` is what it does.
    Source of the defaults: transformers 5.24.
    """

    model_type: str
    architecture: str
    experts: ExpertNames = PROJECTIONS
    norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    normalize: bool = True
    scale: float = 1.0
    reads_normalize: bool = False


FAMILIES: tuple[Family, ...] = (
    Family(model_type="llama", architecture="LlamaForCausalLM"),
    Family(model_type="mistral", architecture="MistralForCausalLM"),
    Family(model_type="qwen2", architecture="Qwen2ForCausalLM"),
    Family(model_type="qwen3", architecture="Qwen3ForCausalLM"),
    Family(
        model_type="mixtral",
        architecture="MixtralForCausalLM",
        experts=MIXTRAL,
        norm_epsilon=1e-5,
        rope_theta=1_000_000.0,
    ),
    Family(model_type="qwen3_moe", architecture="Qwen3MoeForCausalLM", normalize=False, reads_normalize=True),
    Family(model_type="deepseek_v2", architecture="DeepseekV2ForCausalLM", normalize=False),
    Family(model_type="deepseek_v3", architecture="DeepseekV3ForCausalLM", scale=2.5, reads_normalize=True),
    Family(model_type="kimi_k2", architecture="DeepseekV3ForCausalLM", scale=2.5, reads_normalize=True),
)


def family_named(model_type: str, where: str) -> Family:
    """The family of a `model_type`; raises `ModelError`."""
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise ModelError(where, "model_type", f"{model_type!r}: no weights of this family; expected one of {known}")
