"""What routers are trained for beside the loss of tokens: even loads and small logits.

S tokens of a sequence, E experts, K chosen, N tokens of a step. s: scores of a token divided by their sum; c: how often
an expert was chosen. All are sums over tokens, divided by N, so that ranks and micro-batches simply add up.

* per sequence: coefficient / N x sum over tokens and experts of f s, with f = E c / (K S) over the token's sequence
  (DeepSeek-V2, arXiv 2405.04434, section 2.2.3; `aux_loss_alpha` with `seq_aux` in Hugging Face's config.json;
  DeepSeek-V3, arXiv 2412.19437, section 2.1.2). 1 x coefficient a layer where loads are even.
* per device: the same with f replaced by its mean over the experts of a rank (DeepSeek-V2, section 2.2.3;
  MegaScale-MoE, arXiv 2505.11432: experts of a device may differ, as only devices wait for each other).
* per batch: f over all tokens of the step before (at the first step 1). Of the step itself it is only known when all
  forwards are over, when pipelines have long begun with backwards; of a micro-batch or a rank it would depend on the
  plan. After Mixtral and Qwen, whose `router_aux_loss_coef` stands before K times as much, the mean of layers, and over
  global batches, arXiv 2501.11873.
* z: coefficient / N x sum over tokens of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, equation 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from meshwright.costmodel.model import MoeFfnSpec, RouterScore

if TYPE_CHECKING:  # what `meshwright run` is asked for is checked before PyTorch is loaded
    import torch
    from torch import Tensor

LOAD = "router.load"
"""E c / (K N) of the step before, by expert: a constant of a layer whose loss is per batch."""


class LossScope(StrEnum):
    """Whose loads are to be even."""

    PER_SEQUENCE = "per-sequence"
    PER_BATCH = "per-batch"
    PER_DEVICE = "per-device"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLosses:
    """The coefficients: of even loads and of small logits."""

    even: float = 0.0
    scope: LossScope = LossScope.PER_SEQUENCE
    z: float = 0.0

    @property
    def counts_sequences(self) -> bool:
        """Whether the loads within each sequence are needed."""
        return self.even > 0 and self.scope is not LossScope.PER_BATCH

    @property
    def needs_load(self) -> bool:
        """Whether the load of the step before is needed."""
        return self.even > 0 and self.scope is LossScope.PER_BATCH


NO_LOSSES = RouterLosses()


def sequence_load(counts_BE: Tensor, moe: MoeFfnSpec, seq_len: int, dtype: torch.dtype) -> Tensor:
    """F of each sequence, (B, E)."""
    return counts_BE.to(dtype) * (moe.num_experts / (moe.top_k * seq_len))


def device_load(load_BE: Tensor, num_devices: int) -> Tensor:
    """The mean of each device's experts for all of them, (B, E)."""
    means: Tensor = load_BE.unflatten(-1, (num_devices, -1)).mean(-1, keepdim=True)
    return means.expand(-1, -1, load_BE.shape[-1] // num_devices).flatten(-2)


def scores_of_sequences(logits_TE: Tensor, score: RouterScore, micro_batch: int) -> Tensor:
    """S summed over this rank's tokens of each sequence, (B, E)."""
    shares: Tensor = _shares(logits_TE, score).unflatten(0, (-1, micro_batch))
    return shares.sum(0)


def even_backward(logits_TE: Tensor, grad_BE: Tensor, score: RouterScore) -> Tensor:
    """Gradient of the logits from that of the sums of s, which tokens of a sequence have in common, (T, E)."""
    shares, micro_batch = _shares(logits_TE, score), grad_BE.shape[0]
    grad = grad_BE.repeat(logits_TE.shape[0] // micro_batch, 1)
    inner = shares * (grad - (grad * shares).sum(-1, keepdim=True))
    return inner if score is RouterScore.SOFTMAX else inner * (1 - logits_TE.sigmoid())


def _shares(logits_TE: Tensor, score: RouterScore) -> Tensor:
    if score is RouterScore.SOFTMAX:
        return logits_TE.softmax(-1)
    scores = logits_TE.sigmoid()
    return scores / scores.sum(-1, keepdim=True)


def z_loss(logits_TE: Tensor) -> Tensor:
    """The sum over tokens of logsumexp^2."""
    return logits_TE.logsumexp(-1).square().sum()


def z_backward(logits_TE: Tensor) -> Tensor:
    """Its gradient, (T, E)."""
    return logits_TE.softmax(-1) * (2 * logits_TE.logsumexp(-1, keepdim=True))
