"""Memory-bound operators: those of the executor, with their inputs in one order, and what the executor does not have.

`..._eager` runs kernel by kernel; the plain name is one expression, which is compiled, and the reference for float32
inputs. The executor does not fuse permutations and routing: those expressions stand for runtimes that do.

Shapes: T tokens, H hidden, R expert rows (K of them a token), E experts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from meshwright.costmodel.model import MoeFfnSpec, RouterScore
from meshwright.executor.layer.functions import activations, gate_weights, norms, permutation, rotary
from meshwright.executor.layer.routing import expert_ends, sort_slots

EPSILON = 1e-6
ROPE_HEAD_DIM = 128
ROPE_THETA = 10_000.0
FP8_MAX = 448.0


def norm(x_TH: Tensor, weight_H: Tensor) -> Tensor:
    """RMSNorm by its formula."""
    return norms.rms_norm(x_TH, weight_H, EPSILON)[0]


def shipped_norm(x_TH: Tensor, weight_H: Tensor) -> Tensor:
    """RMSNorm by PyTorch's own kernel."""
    return norms.shipped_rms_norm(x_TH, weight_H, EPSILON)[0]


def norm_backward(gradient: Tensor, residual: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Gradients of RMSNorm's input, added to that of the residual branch, and of its weight."""
    return norms.rms_norm_backward(x, scale, weight, gradient, residual)


def shipped_norm_backward(
    gradient: Tensor, residual: Tensor, x: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor | None, ...]:
    """The same by PyTorch's own kernel; the residual's gradient is added by another."""
    return norms.shipped_rms_norm_backward(x, scale, weight, gradient, residual)


def rope(x_TH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of heads of 128 as one expression."""
    return rotary.rotated(x_TH.unflatten(1, (-1, ROPE_HEAD_DIM)), cos, sin).flatten(1)


def rope_eager(x_TH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same kernel by kernel."""
    heads = x_TH.unflatten(1, (-1, ROPE_HEAD_DIM))
    out = torch.empty_like(heads)
    rotary.rotate_into(out, heads, cos, sin)
    return out.flatten(1)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Silu(gate) times up."""
    return activations.swiglu_fused(gate, up, None)


def swiglu_eager(gate: Tensor, up: Tensor) -> Tensor:
    """The same kernel by kernel."""
    return activations.swiglu(gate, up, None)


def swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """Gradients of gate and up side by side."""
    return activations.swiglu_backward_fused(gate, up, None, gradient)[0]


def swiglu_backward_eager(gradient: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """The same kernel by kernel."""
    return activations.swiglu_backward(gate, up, None, gradient)[0]


def permute(x_TH: Tensor, weights_TK: Tensor, slots_R: Tensor) -> tuple[Tensor, ...]:
    """The row of its token for every expert row, and its gate weight."""
    return permutation.sorted_rows(x_TH, weights_TK, slots_R)


def permute_backward_eager(rows_RH: Tensor, gates_R1: Tensor, places_TK: Tensor) -> tuple[Tensor, ...]:
    """Each token's row gradients gathered and summed, and the gate weights' gradients."""
    return permutation.summed_rows(rows_RH, places_TK), permutation.by_token(gates_R1, places_TK).squeeze(-1)


def permute_backward(rows_RH: Tensor, gates_R1: Tensor, places_TK: Tensor) -> tuple[Tensor, ...]:
    """The same summed in float32, as one expression."""
    return unpermute(rows_RH, places_TK), gates_R1.squeeze(1)[places_TK]


def unpermute_eager(rows_RH: Tensor, places_TK: Tensor) -> Tensor:
    """Each token's rows, whose gate weights the activation has applied, gathered and summed."""
    return permutation.summed_rows(rows_RH, places_TK)


def unpermute(rows_RH: Tensor, places_TK: Tensor) -> Tensor:
    """The same summed in float32, as one expression."""
    return rows_RH[places_TK].float().sum(1).to(rows_RH.dtype)


def unpermute_backward(gradient_TH: Tensor, weights_TK: Tensor, slots_R: Tensor) -> Tensor:
    """Each row gets its token's gradient."""
    return permutation.token_gradients(gradient_TH, slots_R, weights_TK.shape[1])


def route_eager(logits_TE: Tensor, gradient_TK: Tensor) -> tuple[Tensor, ...]:
    """The choice of experts, their weights and the order of rows that follows: what the executor's router does.

    Returns the weights and, as integers, slots, places and ends of the experts' rows.
    """
    num_experts, top_k = logits_TE.shape[1], gradient_TK.shape[1]
    moe = MoeFfnSpec(num_experts=num_experts, top_k=top_k, intermediate=1)
    experts = gate_weights.choose_experts(logits_TE, moe, None)
    weights = gate_weights.weigh(logits_TE, experts, RouterScore.SOFTMAX, normalize=True, scale=1.0)
    slots, ordered = sort_slots(experts)
    return weights, slots.slots_R, slots.places_TK, expert_ends(ordered, num_experts)


def route(logits_TE: Tensor, gradient_TK: Tensor) -> tuple[Tensor, ...]:
    """Weights and numbers of the chosen experts, normalized, and how many rows each expert gets."""
    scores, experts = logits_TE.softmax(-1).topk(gradient_TK.shape[1], dim=-1)
    counts = torch.zeros(logits_TE.shape[-1], device=logits_TE.device, dtype=torch.int32)
    ones = torch.ones(experts.numel(), device=logits_TE.device, dtype=torch.int32)
    return scores / scores.sum(-1, keepdim=True), experts, counts.scatter_add_(0, experts.flatten(), ones)


def route_backward_eager(logits_TE: Tensor, gradient_TK: Tensor) -> Callable[[], Tensor]:
    """The gradient of the logits from that of the weights; experts are chosen beforehand."""
    experts = logits_TE.topk(gradient_TK.shape[1], dim=-1).indices
    return lambda: gate_weights.weigh_backward(
        logits_TE, experts, gradient_TK, RouterScore.SOFTMAX, normalize=True, scale=1.0
    )


def route_backward(logits_TE: Tensor, gradient_TK: Tensor) -> Tensor:
    """The same by autograd: what the other is judged by."""
    with torch.enable_grad():
        logits = logits_TE.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(route(logits, gradient_TK)[0], logits, gradient_TK)
    return gradient


def cast_fp8(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """E4m3 by rows, and transposed for the weight gradient; the scale is known beforehand."""
    scaled = (x * scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return scaled, scaled.t().contiguous()


def loss(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Cross-entropy of float32 logits."""
    return cross_entropy(logits_TV.float(), labels_T)


def loss_backward(logits_TV: Tensor, labels_T: Tensor, maximum_T: Tensor, total_T: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy from the statistics that the forward kept."""
    probabilities = torch.exp(logits_TV.float() - maximum_T[:, None]) / total_T[:, None]
    is_label = torch.arange(logits_TV.shape[1], device=logits_TV.device)[None] == labels_T[:, None]
    return ((probabilities - is_label.float()) / logits_TV.shape[0]).to(torch.bfloat16)
