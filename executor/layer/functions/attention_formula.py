"""Attention by its formula, head by head of the keys, so that scores of long sequences fit.

(B, N, S, D) throughout; queries of N / N_kv heads share the keys and values of one. Scores and softmax in float32 or
wider. Source of the backward: FlashAttention-2 (arXiv 2307.08691, section 2.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.functions.masks import CAUSAL, Mask
from meshwright.executor.layer.functions.statistics import statistics_type


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Mask = CAUSAL) -> tuple[Tensor, Tensor]:
    """The output and the log of the softmax's sums, (B, N, S)."""
    group = query.shape[1] // key.shape[1]
    outs, sums = [], []
    for head in range(query.shape[1]):
        scores = _scores(query[:, head], key[:, head // group], scale, mask)
        sums.append(scores.logsumexp(-1))
        weights = (scores - sums[-1].unsqueeze(-1)).exp()
        outs.append((weights @ value[:, head // group].to(weights.dtype)).to(query.dtype))
    return torch.stack(outs, 1), torch.stack(sums, 1)


def _scores(query_BSD: Tensor, key_BSD: Tensor, scale: float, mask: Mask) -> Tensor:
    """Scaled scores, those of hidden keys masked, (B, S, keys)."""
    wide = statistics_type(query_BSD.dtype)
    scores: Tensor = query_BSD.to(wide) @ key_BSD.to(wide).transpose(-2, -1) * scale
    hidden = mask.hidden(scores.shape[-2], scores.shape[-1], scores.device)
    return scores if hidden is None else scores.masked_fill(hidden, float("-inf"))


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    scale: float,
    mask: Mask = CAUSAL,
) -> list[Tensor]:
    """Gradients of queries, keys and values.

    `out` and `sums` may be those over more keys than are given: gradients then are this part of the keys'.
    """
    group, wide = query.shape[1] // key.shape[1], statistics_type(query.dtype)
    grad_query = torch.zeros(query.shape, dtype=wide, device=query.device)
    grad_key = torch.zeros(key.shape, dtype=wide, device=query.device)
    grad_value = torch.zeros(value.shape, dtype=wide, device=query.device)
    for head in range(query.shape[1]):
        shared = head // group
        upstream, result = grad[:, head].to(wide), out[:, head].to(wide)
        weights = (_scores(query[:, head], key[:, shared], scale, mask) - sums[:, head].unsqueeze(-1)).exp()
        grad_weights = upstream @ value[:, shared].to(wide).transpose(-2, -1)
        grad_scores = weights * (grad_weights - (upstream * result).sum(-1, keepdim=True)) * scale
        grad_query[:, head] = grad_scores @ key[:, shared].to(wide)
        grad_key[:, shared] += grad_scores.transpose(-2, -1) @ query[:, head].to(wide)
        grad_value[:, shared] += weights.transpose(-2, -1) @ upstream
    return [gradient.to(query.dtype) for gradient in (grad_query, grad_key, grad_value)]
