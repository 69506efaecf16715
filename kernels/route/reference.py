"""Routing in plain PyTorch: the truth, on any device, in float32 or float64. Nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.costmodel.model import RouterScore
from meshwright.kernels.route.contract import Routed, RouteOptions


def route_reference(logits_TE: Tensor, options: RouteOptions, bias_E: Tensor | None, *, sums: bool) -> Routed:
    """Experts, weights, counts and sums."""
    scores = scores_of(logits_TE, options)
    experts = _choose(ranking(logits_TE, options, bias_E), options)
    ones = torch.ones(experts.numel(), dtype=torch.int32, device=logits_TE.device)
    counts = torch.zeros(logits_TE.shape[1], dtype=torch.int32, device=logits_TE.device)
    return Routed(
        experts_TK=experts.to(torch.int32),
        weights_TK=weigh(logits_TE, experts, options),
        counts_E=counts.scatter_add_(0, experts.flatten(), ones),
        sums_E=shares(scores, options).sum(0) if sums else logits_TE.new_empty(0),
    )


def scores_of(logits_TE: Tensor, options: RouteOptions) -> Tensor:
    """Probabilities or sigmoid scores, (T, E)."""
    return logits_TE.softmax(-1) if options.score is RouterScore.SOFTMAX else logits_TE.sigmoid()


def shares(scores_TE: Tensor, options: RouteOptions) -> Tensor:
    """Scores that add up to one, as auxiliary losses take them, (T, E)."""
    return scores_TE if options.score is RouterScore.SOFTMAX else scores_TE / scores_TE.sum(-1, keepdim=True)


def ranking(logits_TE: Tensor, options: RouteOptions, bias_E: Tensor | None) -> Tensor:
    """What experts are chosen by, (T, E); -inf for those out of reach."""
    plain = options.score is RouterScore.SOFTMAX and bias_E is None and not options.is_limited
    ranked = logits_TE if plain else scores_of(logits_TE, options)
    if bias_E is not None:
        ranked = ranked + bias_E
    return _within_best_groups(ranked, options) if options.is_limited else ranked


def _within_best_groups(ranked_TE: Tensor, options: RouteOptions) -> Tensor:
    grouped: Tensor = ranked_TE.unflatten(-1, (options.num_groups, -1))
    best = 1 if options.score is RouterScore.SOFTMAX else min(2, grouped.shape[-1])
    worth = grouped.topk(best, dim=-1).values.sum(-1)
    chosen = worth.sort(dim=-1, descending=True, stable=True).indices.narrow(-1, 0, options.groups_per_token)
    outside = torch.ones_like(worth, dtype=torch.bool).scatter_(-1, chosen, False)
    return grouped.masked_fill(outside.unsqueeze(-1), float("-inf")).flatten(-2)


def _choose(ranked_TE: Tensor, options: RouteOptions) -> Tensor:
    return ranked_TE.sort(dim=-1, descending=True, stable=True).indices.narrow(-1, 0, options.top_k)


def weigh(logits_TE: Tensor, experts_TK: Tensor, options: RouteOptions) -> Tensor:
    """The weights of chosen experts (int64), (T, K)."""
    chosen = logits_TE.gather(-1, experts_TK)
    if options.score is RouterScore.SIGMOID:
        weights = chosen.sigmoid()
        weights = weights / weights.sum(-1, keepdim=True) if options.normalize else weights
    elif options.normalize:
        weights = chosen.softmax(-1)
    else:
        weights = logits_TE.softmax(-1).gather(-1, experts_TK)
    return weights * options.scale


def route_backward_reference(
    logits_TE: Tensor, experts_TK: Tensor, grad_weights_TK: Tensor, grad_sums_E: Tensor | None, options: RouteOptions
) -> Tensor:
    """Gradient of the logits, (T, E)."""
    experts, grad = experts_TK.to(torch.int64), grad_weights_TK * options.scale
    if options.score is RouterScore.SOFTMAX and not options.normalize:
        probabilities = logits_TE.softmax(-1)
        upstream = torch.zeros_like(logits_TE).scatter_(-1, experts, grad)
        out = probabilities * (upstream - (upstream * probabilities).sum(-1, keepdim=True))
    else:
        chosen = logits_TE.gather(-1, experts)
        out = torch.zeros_like(logits_TE).scatter_(-1, experts, _chosen_gradient(chosen, grad, options))
    return out if grad_sums_E is None else out + _through_sums(logits_TE, grad_sums_E, options)


def _chosen_gradient(chosen_TK: Tensor, grad_TK: Tensor, options: RouteOptions) -> Tensor:
    """Where weights depend on the chosen logits alone."""
    if options.score is RouterScore.SOFTMAX:
        weights = chosen_TK.softmax(-1)
        return weights * (grad_TK - (grad_TK * weights).sum(-1, keepdim=True))
    scores = chosen_TK.sigmoid()
    if options.normalize:
        total = scores.sum(-1, keepdim=True)
        grad_TK = (grad_TK - (grad_TK * scores).sum(-1, keepdim=True) / total) / total
    return grad_TK * scores * (1 - scores)


def _through_sums(logits_TE: Tensor, grad_sums_E: Tensor, options: RouteOptions) -> Tensor:
    scores = scores_of(logits_TE, options)
    parts = shares(scores, options)
    inner = grad_sums_E - (grad_sums_E * parts).sum(-1, keepdim=True)
    return parts * inner if options.score is RouterScore.SOFTMAX else parts * inner * (1 - scores)
