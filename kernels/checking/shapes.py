"""The one table of shapes: mixture-of-experts layers of real models, read from the presets."""

from __future__ import annotations

from typing import Final

from meshwright.costmodel.model import LayerSpec, ModelSpec, MoeFfnSpec, RouterScore
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.value import Value
from meshwright.kernels.route.contract import RouteOptions

MODELS: Final = ("qwen3-30b-a3b", "deepseek-v3", "mixtral-8x7b", "internal-352b")
TOKENS: Final = 8192
"""Tokens of a GPU in one micro-batch."""


class MoeShape(Value, frozen=True, kw_only=True):
    """The sizes of a layer, all experts on one GPU."""

    model: str
    tokens: int
    hidden: int
    intermediate: int
    experts: int
    top_k: int
    score: RouterScore
    biased: bool
    num_groups: int
    groups_per_token: int

    @property
    def slots(self) -> int:
        """Choices of all tokens."""
        return self.tokens * self.top_k

    @property
    def options(self) -> RouteOptions:
        """How the layer's router chooses."""
        return RouteOptions(
            top_k=self.top_k,
            score=self.score,
            num_groups=self.num_groups,
            groups_per_token=self.groups_per_token,
        )


def moe_shape(name: str, tokens: int = TOKENS) -> MoeShape:
    """The shape of a preset's first mixture-of-experts layer.

    >>> moe_shape("qwen3-30b-a3b").slots
    65536
    """
    model = load_model(name)
    ffn = _moe_of(model, name)
    return MoeShape(
        model=name,
        tokens=tokens,
        hidden=model.hidden,
        intermediate=ffn.intermediate,
        experts=ffn.num_experts,
        top_k=ffn.top_k,
        score=ffn.score,
        biased=ffn.score_correction_bias,
        num_groups=ffn.num_expert_groups,
        groups_per_token=ffn.groups_per_token,
    )


def _moe_of(model: ModelSpec, name: str) -> MoeFfnSpec:
    layers: tuple[LayerSpec, ...] = model.layer_types
    found = next((layer.ffn for layer in layers if isinstance(layer.ffn, MoeFfnSpec)), None)
    if found is None:
        raise ValueError(f"{name} has no mixture of experts")
    return found
