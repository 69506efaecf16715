"""Memory-bound operators in plain PyTorch, as frameworks without fused kernels write them, and explicit backwards.

Shapes: T tokens, H hidden, R expert rows (K of them a token), E experts, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, silu

EPSILON = 1e-6
ROPE_HEAD_DIM = 128
FP8_MAX = 448.0


def norm(x_TH: torch.Tensor, weight_H: torch.Tensor) -> torch.Tensor:
    """RMSNorm with statistics in float32."""
    wide = x_TH.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    return scaled.to(x_TH.dtype) * weight_H


def norm_backward(
    gradient_TH: torch.Tensor, residual_TH: torch.Tensor, x_TH: torch.Tensor, weight_H: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of RMSNorm's input, added to that of the residual branch, and of its weight."""
    wide, gradient = x_TH.float(), gradient_TH.float()
    rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    scaled, weighted = wide * rstd, gradient * weight_H.float()
    own = rstd * (weighted - scaled * (weighted * scaled).mean(-1, keepdim=True))
    return (own + residual_TH.float()).to(x_TH.dtype), (gradient * scaled).sum(0).to(weight_H.dtype)


def rope(x_TH: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of heads of 128: halves are rotated."""
    heads = x_TH.view(x_TH.shape[0], -1, cos_TD.shape[-1])
    half = heads.shape[-1] // 2
    rotated = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
    return (heads * cos_TD[:, None] + rotated * sin_TD[:, None]).view_as(x_TH)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Silu(gate) times up."""
    return silu(gate) * up


def swiglu_backward(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of both inputs of SwiGLU."""
    wide, gradient32 = gate.float(), gradient.float()
    sigmoid = torch.sigmoid(wide)
    activated = wide * sigmoid
    gate_gradient = gradient32 * up.float() * (sigmoid + activated * (1.0 - sigmoid))
    return gate_gradient.to(gate.dtype), (gradient32 * activated).to(up.dtype)


def permute(x_TH: torch.Tensor, token_R: torch.Tensor) -> torch.Tensor:
    """The row of its token for every expert row."""
    return x_TH.index_select(0, token_R)


def unpermute_eager(
    rows_RH: torch.Tensor, weight_R: torch.Tensor, token_R: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    """Every token's rows, weighted and added into place."""
    out = torch.zeros((num_tokens, rows_RH.shape[1]), device=rows_RH.device, dtype=rows_RH.dtype)
    return out.index_add_(0, token_R, rows_RH * weight_R[:, None])


def unpermute(rows_RH: torch.Tensor, weight_R: torch.Tensor, row_TK: torch.Tensor) -> torch.Tensor:
    """The same by gathering each token's rows: nothing is added in memory."""
    return (rows_RH[row_TK].float() * weight_R[row_TK][..., None].float()).sum(1).to(rows_RH.dtype)


def permute_backward_eager(gradient_RH: torch.Tensor, token_R: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Every token's row gradients added into place."""
    out = torch.zeros((num_tokens, gradient_RH.shape[1]), device=gradient_RH.device, dtype=gradient_RH.dtype)
    return out.index_add_(0, token_R, gradient_RH)


def permute_backward(gradient_RH: torch.Tensor, row_TK: torch.Tensor) -> torch.Tensor:
    """The same by gathering each token's rows."""
    return gradient_RH[row_TK].float().sum(1).to(gradient_RH.dtype)


def unpermute_backward(
    gradient_TH: torch.Tensor, rows_RH: torch.Tensor, weight_R: torch.Tensor, token_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the expert rows and of their weights."""
    gathered = gradient_TH.index_select(0, token_R)
    return gathered * weight_R[:, None], (gathered.float() * rows_RH.float()).sum(-1).to(weight_R.dtype)


def route(logits_TE: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights and numbers of the chosen experts, normalized, and how many rows each expert gets."""
    scores, experts = logits_TE.softmax(-1).topk(top_k, dim=-1)
    counts = torch.zeros(logits_TE.shape[-1], device=logits_TE.device, dtype=torch.int32)
    ones = torch.ones(experts.numel(), device=logits_TE.device, dtype=torch.int32)
    return scores / scores.sum(-1, keepdim=True), experts, counts.scatter_add_(0, experts.flatten(), ones)


def cast_fp8(x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """E4m3 by rows, and transposed for the weight gradient; the scale is known beforehand."""
    scaled = (x * scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return scaled, scaled.t().contiguous()


def loss(logits_TV: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of float32 logits."""
    return cross_entropy(logits_TV.float(), labels_T)


def loss_backward(
    logits_TV: torch.Tensor, labels_T: torch.Tensor, maximum_T: torch.Tensor, total_T: torch.Tensor
) -> torch.Tensor:
    """Gradient of the mean cross-entropy from the statistics that the forward kept."""
    probabilities = torch.exp(logits_TV.float() - maximum_T[:, None]) / total_T[:, None]
    is_label = torch.arange(logits_TV.shape[1], device=logits_TV.device)[None] == labels_T[:, None]
    return ((probabilities - is_label.float()) / logits_TV.shape[0]).to(torch.bfloat16)
