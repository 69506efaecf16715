"""What a transformer is made of: values that describe its layers, with no strategy and no hardware in them."""

from __future__ import annotations

from enum import StrEnum
from itertools import groupby

import msgspec

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.value import Value


class RouterScore(StrEnum):
    """How router logits become gate weights."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


class AttentionSpec(Value, frozen=True, kw_only=True):
    """One attention block; `kv_lora_rank > 0` makes it multi-head latent attention (MLA).

    Head sizes are elements. In MLA `head_dim` is the whole query/key head (nope + rope), `rope_head_dim` its
    rotary part (shared by all heads on the key side), and `num_kv_heads == num_heads`.
    `window` is the sliding window in tokens, 0 for full causal attention; `chunk` the length of the independent
    chunks of chunked attention (Llama 4), 0 for none. `qk_norm` normalises each head's query and key, with weights
    unless `qk_norm_weights` is off. `shares_key_value` reuses the previous layer's keys and values and so has no
    projections of its own for them (cross-layer attention, Hunyuan-Large). `sinks` is one learned logit a head.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_head_dim: int
    window: int = 0
    chunk: int = 0
    query_lora_rank: int = 0
    kv_lora_rank: int = 0
    rope_head_dim: int = 0
    qk_norm: bool = False
    qk_norm_weights: bool = True
    shares_key_value: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    sinks: bool = False

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_kv_heads", "head_dim", "value_head_dim"):
            _require_positive("attention", name, getattr(self, name))
        for name in ("window", "chunk", "query_lora_rank", "kv_lora_rank", "rope_head_dim"):
            _require_not_negative("attention", name, getattr(self, name))
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                "attention", "num_kv_heads", f"{self.num_kv_heads} does not divide num_heads {self.num_heads}"
            )
        if self.is_mla:
            self._check_latent()

    def _check_latent(self) -> None:
        """MLA: every head has its own key and value, and the rotary part is a proper part of the key."""
        if self.num_kv_heads != self.num_heads:
            raise ModelError("attention", "num_kv_heads", f"{self.num_kv_heads} must equal num_heads in MLA")
        if not 0 < self.rope_head_dim < self.head_dim:
            raise ModelError("attention", "rope_head_dim", f"{self.rope_head_dim} is not between 0 and head_dim")

    @property
    def is_mla(self) -> bool:
        """Whether keys and values are projected from a latent vector."""
        return self.kv_lora_rank > 0

    @property
    def nope_head_dim(self) -> int:
        """The part of a query/key head that MLA does not rotate."""
        return self.head_dim - self.rope_head_dim

    @property
    def query_width(self) -> int:
        """Elements of all query heads of one token."""
        return self.num_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Elements of all key heads of one token."""
        return self.num_kv_heads * self.head_dim

    @property
    def value_width(self) -> int:
        """Elements of all value heads of one token."""
        return self.num_kv_heads * self.value_head_dim

    @property
    def output_width(self) -> int:
        """Elements of the attention output of one token, before the output projection."""
        return self.num_heads * self.value_head_dim


class DenseFfnSpec(Value, frozen=True, kw_only=True, tag="dense"):
    """A dense feed-forward block: `gated` has three matrices (SwiGLU), otherwise two."""

    intermediate: int
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        _require_positive("ffn", "intermediate", self.intermediate)


class MoeFfnSpec(Value, frozen=True, kw_only=True, tag="moe"):
    """A mixture of experts: every token goes to `top_k` of `num_experts` and to all shared experts.

    `shared_intermediate` is the summed width of the shared experts, 0 for none; `shared_gate` is Qwen2-MoE's
    sigmoid gate on them. Node-limited routing: experts in `num_expert_groups` groups, tokens limited to
    `groups_per_token` of them (1 and 1: no limit).
    """

    num_experts: int
    top_k: int
    intermediate: int
    gated: bool = True
    bias: bool = False
    shared_intermediate: int = 0
    shared_gate: bool = False
    score: RouterScore = RouterScore.SOFTMAX
    score_correction_bias: bool = False
    router_bias: bool = False
    num_expert_groups: int = 1
    groups_per_token: int = 1

    def __post_init__(self) -> None:
        for name in ("num_experts", "top_k", "intermediate", "num_expert_groups", "groups_per_token"):
            _require_positive("moe", name, getattr(self, name))
        _require_not_negative("moe", "shared_intermediate", self.shared_intermediate)
        if self.top_k > self.num_experts:
            raise ModelError("moe", "top_k", f"{self.top_k} is more than num_experts {self.num_experts}")
        if self.num_experts % self.num_expert_groups:
            raise ModelError(
                "moe", "num_expert_groups", f"{self.num_expert_groups} does not divide num_experts {self.num_experts}"
            )
        reachable = self.num_experts // self.num_expert_groups * self.groups_per_token
        if self.groups_per_token <= self.num_expert_groups and reachable < self.top_k:
            raise ModelError(
                "moe",
                "groups_per_token",
                f"{self.groups_per_token} groups hold {reachable} experts, top_k is {self.top_k}",
            )
        if self.groups_per_token > self.num_expert_groups:
            raise ModelError(
                "moe",
                "groups_per_token",
                f"{self.groups_per_token} is more than num_expert_groups {self.num_expert_groups}",
            )


class LayerSpec(Value, frozen=True, kw_only=True):
    """One decoder layer. `num_norms` counts hidden-wide norms (2: pre-norm); `norm_bias` is LayerNorm's bias."""

    attention: AttentionSpec
    ffn: DenseFfnSpec | MoeFfnSpec
    num_norms: int = 2
    norm_bias: bool = False

    @property
    def is_moe(self) -> bool:
        """Whether the feed-forward block is a mixture of experts."""
        return isinstance(self.ffn, MoeFfnSpec)


class ModelSpec(Value, frozen=True, kw_only=True):
    """A decoder-only transformer: its layers in order, embedding and head.

    `learned_positions` is the number of learned position vectors (GPT-3), 0 for rotary. `mtp_depth` counts
    multi-token-prediction modules: each is one more layer of the last layer's kind, a 2h x h projection and three
    norms; embedding and head are shared with the main model (DeepSeek-V3 report, section 2.2).
    `source` says where the description came from.
    """

    name: str
    hidden: int
    vocab: int
    layers: tuple[LayerSpec, ...]
    tied_embeddings: bool = False
    head_bias: bool = False
    learned_positions: int = 0
    mtp_depth: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("hidden", "vocab"):
            _require_positive(self.name, name, getattr(self, name))
        for name in ("learned_positions", "mtp_depth"):
            _require_not_negative(self.name, name, getattr(self, name))
        if not self.layers:
            raise ModelError(self.name, "layers", "a model needs at least one layer")

    @property
    def num_layers(self) -> int:
        """Decoder layers, multi-token-prediction modules not counted."""
        return len(self.layers)

    @property
    def layer_types(self) -> tuple[LayerSpec, ...]:
        """The distinct kinds of layer, in order of first appearance."""
        return tuple(dict.fromkeys(self.layers))

    @property
    def layer_runs(self) -> tuple[tuple[LayerSpec, int], ...]:
        """The stack as runs of identical layers: (layer, how many in a row)."""
        return tuple((layer, len(tuple(run))) for layer, run in groupby(self.layers))

    @property
    def is_moe(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return any(layer.is_moe for layer in self.layer_types)


def with_num_layers(model: ModelSpec, num_layers: int) -> ModelSpec:
    """The same model with its first `num_layers` layers, so leading dense layers and any alternation stay."""
    if not 1 <= num_layers <= model.num_layers:
        raise ModelError(model.name, "num_layers", f"{num_layers} is not between 1 and {model.num_layers}")
    return msgspec.structs.replace(model, layers=model.layers[:num_layers])


def _require_positive(where: str, field: str, value: int) -> None:
    if value < 1:
        raise ModelError(where, field, f"{value} is not a positive whole number")


def _require_not_negative(where: str, field: str, value: int) -> None:
    if value < 0:
        raise ModelError(where, field, f"{value} is negative")
