"""How models stretch rotary positions to longer sequences: other frequencies, sometimes other tables and scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.costmodel.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling(ABC):
    """Positions stretched by a factor."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ModelError("rope_scaling", "factor", f"{self.factor}, expected a positive number")

    @property
    def table_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0

    @property
    def score_factor(self) -> float:
        """What attention scores are multiplied by, beside 1 / sqrt(head size)."""
        return 1.0

    @abstractmethod
    def frequencies(self, plain: Tensor, theta: float) -> Tensor:
        """The frequencies, radians a position, from the plain ones theta^(-2 i / width), (width / 2,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoScaling(RopeScaling):
    """Plain rotary positions."""

    def frequencies(self, plain: Tensor, theta: float) -> Tensor:  # noqa: ARG002
        """As they are."""
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling(RopeScaling):
    """Positions divided by the factor. Source: arXiv 2306.15595."""

    def frequencies(self, plain: Tensor, theta: float) -> Tensor:  # noqa: ARG002
        """All divided by the factor."""
        return plain / self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling(RopeScaling):
    """Waves longer than original_length / low_frequency_factor are stretched by the factor, those shorter than
    original_length / high_frequency_factor are not, those between partly.

    Source: Llama 3.1's published code (`apply_scaling`).
    """

    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int

    def frequencies(self, plain: Tensor, theta: float) -> Tensor:  # noqa: ARG002
        """Stretched by their wave length."""
        turns = self.original_length * plain / (2 * math.pi)
        kept = (turns - self.low_frequency_factor) / (self.high_frequency_factor - self.low_frequency_factor)
        return torch.lerp(plain / self.factor, plain, kept.clamp(0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling(RopeScaling):
    """Dimensions that turn fewer than `beta_slow` times within the original length are stretched by the factor, those
    that turn more than `beta_fast` times are not, with a linear ramp over the dimensions between.

    `truncate`: the ramp begins and ends at whole dimensions. `attention_factor` overrules the growth of the tables; 0:
    it follows from `mscale` and `mscale_all_dim`. `scales_scores`: scores of attention grow, too, as DeepSeek's do.
    Sources: YaRN (arXiv 2309.00071, sections 3.2 and 3.4); DeepSeek-V2's published code for both mscales.
    """

    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 0.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    scales_scores: bool = False

    @property
    def table_factor(self) -> float:
        """The growth by mscale over that by mscale_all_dim, where both are given."""
        if self.attention_factor:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return yarn_mscale(self.factor, self.mscale) / yarn_mscale(self.factor, self.mscale_all_dim)
        return yarn_mscale(self.factor, 1.0)

    @property
    def score_factor(self) -> float:
        """The growth by mscale_all_dim, squared: once for the queries, once for the keys."""
        return yarn_mscale(self.factor, self.mscale_all_dim) ** 2 if self.scales_scores else 1.0

    def frequencies(self, plain: Tensor, theta: float) -> Tensor:
        """Stretched by how often they turn."""
        width = 2 * plain.numel()
        low = self._dimension(self.beta_fast, width, theta)
        high = self._dimension(self.beta_slow, width, theta)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        places = torch.arange(plain.numel(), dtype=plain.dtype, device=plain.device)
        stretched = ((places - low) / max(high - low, 1e-3)).clamp(0, 1)
        return torch.lerp(plain, plain / self.factor, stretched)

    def _dimension(self, turns: float, width: int, theta: float) -> float:
        """The pair of dimensions, a real number, that turns so often within the original length."""
        return width * math.log(self.original_length / (2 * math.pi * turns)) / (2 * math.log(theta))


def yarn_mscale(factor: float, weight: float) -> float:
    """The growth of attention's temperature with the stretching: 0.1 weight ln(factor) + 1.

    Source: YaRN (arXiv 2309.00071, section 3.4); the weight is DeepSeek-V2's.
    """
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


NO_SCALING = NoScaling()
