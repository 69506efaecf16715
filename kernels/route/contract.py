"""What routing takes and gives.

T tokens, E experts, K chosen. Scores are a softmax over all experts, or sigmoids. Experts rank by logit; by score where
a bias is added (which counts for the choice alone) or groups are limited. Of equal experts the lowest number wins.
Sources: softmax over the chosen, Mixtral (arXiv 2401.04088); sigmoid scores, bias and groups, DeepSeek-V3 (arXiv
2412.19437, section 2.1.2); auxiliary loss from counts and summed scores, Switch Transformer (arXiv 2101.03961, eq.
4-6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.costmodel.model import RouterScore
from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.tensors import check_dims, check_shape

OPERATION = "route"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """How experts are chosen and weighed.

    normalize: the weights of a token's experts add up to `scale`. groups_per_token of num_groups groups of experts may
    hold a token's experts; a group is as good as its best expert (softmax) or its two best together (sigmoid).
    """

    top_k: int
    score: RouterScore = RouterScore.SOFTMAX
    normalize: bool = True
    scale: float = 1.0
    num_groups: int = 1
    groups_per_token: int = 1

    @property
    def is_limited(self) -> bool:
        """Whether some groups are out of reach."""
        return self.groups_per_token < self.num_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """experts_TK (int32), best first; weights_TK (float32); counts_E (int32), tokens of each expert.

    sums_E (float32): each expert's probabilities, summed over tokens; sigmoid scores are first divided by their token's
    sum. Empty where not asked for.
    """

    experts_TK: Tensor
    weights_TK: Tensor
    counts_E: Tensor
    sums_E: Tensor


def check_route(logits_TE: Tensor, options: RouteOptions, bias_E: Tensor | None) -> None:
    """Raise where tensors and options do not fit."""
    check_dims(OPERATION, "logits", logits_TE, 2)
    num_experts = logits_TE.shape[1]
    if logits_TE.dtype not in (torch.float32, torch.float64):
        raise KernelInputError(f"{OPERATION}: logits are {logits_TE.dtype}, expected float32")
    if bias_E is not None:
        check_shape(OPERATION, "bias", bias_E, (num_experts,))
    if num_experts % options.num_groups:
        raise KernelInputError(f"{OPERATION}: {options.num_groups} groups do not divide {num_experts} experts")
    reachable = num_experts // options.num_groups * options.groups_per_token
    if not 1 <= options.top_k <= reachable:
        raise KernelInputError(f"{OPERATION}: top_k is {options.top_k}, expected 1 to {reachable} experts in reach")


def forward_bytes(num_tokens: int, num_experts: int, top_k: int) -> int:
    """Bytes that must move: logits in, experts and weights out.

    >>> forward_bytes(1, 8, 2)
    48
    """
    return num_tokens * (4 * num_experts + 8 * top_k)


def backward_bytes(num_tokens: int, num_experts: int, top_k: int, *, reads_logits: bool) -> int:
    """Bytes that must move: experts and gradients of their weights in, gradients of logits out, logits where needed.

    Where weights are normalized and no sums are differentiated, only the chosen logits matter, or their weights.

    >>> backward_bytes(1, 8, 2, reads_logits=True)
    80
    """
    logits = 4 * num_experts if reads_logits else 4 * top_k
    return num_tokens * (logits + 4 * num_experts + 8 * top_k)
