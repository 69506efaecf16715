"""Which experts a token goes to, with which weights, and the way back from the weights' gradients to the logits'.

All in float32 or wider. Sources: softmax over the chosen, Mixtral (arXiv 2401.04088); sigmoid scores with a bias that
only counts for the choice and with group-limited choice, DeepSeek-V3 (arXiv 2412.19437, section 2.1.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.costmodel.model import MoeFfnSpec, RouterScore

BEST_OF_GROUP = {RouterScore.SOFTMAX: 1, RouterScore.SIGMOID: 2}
"""A group of experts is as good as its best one (DeepSeek-V2), or its two best ones together (DeepSeek-V3)."""


def choose_experts(logits_TE: Tensor, moe: MoeFfnSpec, correction_E: Tensor | None) -> Tensor:
    """The experts of each token, (T, K). Logits rank as their softmax does, unless something is added to scores."""
    plain = correction_E is None and moe.num_expert_groups == moe.groups_per_token
    scores = logits_TE
    if moe.score is RouterScore.SIGMOID:
        scores = logits_TE.sigmoid()
    elif not plain:
        scores = logits_TE.softmax(-1)
    if correction_E is not None:
        scores = scores + correction_E
    if moe.groups_per_token < moe.num_expert_groups:
        scores = _within_best_groups(scores, moe)
    return torch.topk(scores, moe.top_k, dim=-1).indices


def _within_best_groups(scores_TE: Tensor, moe: MoeFfnSpec) -> Tensor:
    grouped: Tensor = scores_TE.unflatten(-1, (moe.num_expert_groups, -1))
    best = grouped.topk(min(BEST_OF_GROUP[moe.score], grouped.shape[-1]), dim=-1).values.sum(-1)
    chosen = best.topk(moe.groups_per_token, dim=-1).indices
    outside = torch.ones_like(best, dtype=torch.bool).scatter_(-1, chosen, False)
    return grouped.masked_fill(outside.unsqueeze(-1), float("-inf")).flatten(-2)


def weigh(logits_TE: Tensor, experts_TK: Tensor, score: RouterScore, *, normalize: bool, scale: float) -> Tensor:
    """The weights of the chosen experts, (T, K); normalized, they add up to `scale`."""
    chosen = logits_TE.gather(-1, experts_TK)
    if score is RouterScore.SIGMOID:
        weights = chosen.sigmoid()
        weights = weights / weights.sum(-1, keepdim=True) if normalize else weights
    elif normalize:
        weights = chosen.softmax(-1)
    else:
        weights = logits_TE.softmax(-1).gather(-1, experts_TK)
    return weights if scale == 1.0 else weights * scale


def weigh_backward(
    logits_TE: Tensor, experts_TK: Tensor, grad_TK: Tensor, score: RouterScore, *, normalize: bool, scale: float
) -> Tensor:
    """Gradient of the logits, (T, E)."""
    grad = grad_TK * scale
    if score is RouterScore.SOFTMAX and not normalize:
        probabilities = logits_TE.softmax(-1)
        upstream = torch.zeros_like(logits_TE).scatter_(-1, experts_TK, grad)
        return probabilities * (upstream - (upstream * probabilities).sum(-1, keepdim=True))
    chosen = logits_TE.gather(-1, experts_TK)
    if score is RouterScore.SOFTMAX:
        weights = chosen.softmax(-1)
        grad_chosen = weights * (grad - (grad * weights).sum(-1, keepdim=True))
    else:
        grad_chosen = _sigmoid_backward(chosen, grad, normalize)
    return torch.zeros_like(logits_TE).scatter_(-1, experts_TK, grad_chosen)


def _sigmoid_backward(chosen_TK: Tensor, grad_TK: Tensor, normalize: bool) -> Tensor:
    scores = chosen_TK.sigmoid()
    if normalize:
        total = scores.sum(-1, keepdim=True)
        grad_TK = (grad_TK - (grad_TK * scores).sum(-1, keepdim=True) / total) / total
    return grad_TK * scores * (1 - scores)
