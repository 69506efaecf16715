"""What kernels are measured against: the same results by PyTorch, written as one would for `torch.compile`.

The row maps of rows without padding are given to them; rows are (R, H), slots_R and tokens_R int64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.kernels.route.contract import RouteOptions
from meshwright.kernels.route.reference import ranking, scores_of, shares, weigh


def route(logits_TE: Tensor, bias_E: Tensor | None, options: RouteOptions) -> tuple[Tensor, ...]:
    """Experts by torch.topk, weights, counts and sums."""
    experts = ranking(logits_TE, options, bias_E).topk(options.top_k, dim=-1, sorted=False).indices
    counts = torch.zeros(logits_TE.shape[1], dtype=torch.int32, device=logits_TE.device)
    counts = counts.scatter_add(0, experts.flatten(), torch.ones_like(experts, dtype=torch.int32).flatten())
    sums = shares(scores_of(logits_TE, options), options).sum(0)
    return experts, weigh(logits_TE, experts, options), counts, sums


def route_backward(logits_TE: Tensor, experts_TK: Tensor, weights_TK: Tensor, grad_weights_TK: Tensor) -> Tensor:
    """Gradient of the logits from the weights of a normalized softmax, without reading the logits."""
    inner = (grad_weights_TK * weights_TK).sum(-1, keepdim=True)
    return torch.zeros_like(logits_TE).scatter_(-1, experts_TK.to(torch.int64), weights_TK * (grad_weights_TK - inner))


def index(experts_TK: Tensor, num_experts: int) -> tuple[Tensor, ...]:
    """Maps by argsort, bincount and cumsum."""
    flat = experts_TK.flatten()
    slots = torch.argsort(flat, stable=True)
    counts = torch.bincount(flat, minlength=num_experts)
    places = torch.empty_like(slots).scatter_(0, slots, torch.arange(flat.numel(), device=flat.device))
    return slots, places, counts, counts.cumsum(0)


def index_without_wait(experts_TK: Tensor, num_experts: int) -> tuple[Tensor, ...]:
    """As `index`, where counting does not wait for the device."""
    flat = experts_TK.flatten()
    ordered, slots = torch.sort(flat, stable=True)
    numbers = torch.arange(num_experts, device=flat.device, dtype=flat.dtype)
    offsets = torch.searchsorted(ordered, numbers, right=True, out_int32=True)
    places = torch.empty_like(slots).scatter_(0, slots, torch.arange(flat.numel(), device=flat.device))
    return slots, places, offsets


def regroup(counts_SE: Tensor, num_rows: int) -> tuple[Tensor, ...]:
    """Maps of rows that several ranks sent, by a stable sort of their experts."""
    sources, experts = counts_SE.shape
    numbers = torch.arange(experts, device=counts_SE.device).repeat(sources)
    of_rows = torch.repeat_interleave(numbers, counts_SE.flatten().long(), output_size=num_rows)
    ordered, slots = torch.sort(of_rows, stable=True)
    places = torch.empty_like(slots).scatter_(0, slots, torch.arange(num_rows, device=counts_SE.device))
    return slots, places, torch.searchsorted(ordered, numbers[:experts], right=True, out_int32=True)


def picked(rows_RH: Tensor, gates_R1: Tensor, order_R: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and gates in another order."""
    return rows_RH.index_select(0, order_R), gates_R1.index_select(0, order_R)


def permute(tokens_TH: Tensor, weights_TK: Tensor, slots_R: Tensor, tokens_R: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and their gates."""
    return tokens_TH.index_select(0, tokens_R), weights_TK.flatten().index_select(0, slots_R)


def permute_backward(grad_RH: Tensor, gates_R: Tensor, places_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of rows, and gradients of the weights."""
    rows = grad_RH.index_select(0, places_TK.flatten()).unflatten(0, places_TK.shape)
    return rows.float().sum(1).to(grad_RH.dtype), gates_R[places_TK]


def unpermute(rows_RH: Tensor, weights_TK: Tensor, places_TK: Tensor) -> Tensor:
    """Weighted sums of rows."""
    rows = rows_RH.index_select(0, places_TK.flatten()).unflatten(0, places_TK.shape)
    summed: Tensor = (rows.float() * weights_TK.unsqueeze(-1)).sum(1)
    return summed.to(rows_RH.dtype)


def unpermute_backward(
    grad_TH: Tensor, rows_RH: Tensor, weights_TK: Tensor, slots_R: Tensor, tokens_R: Tensor, places_TK: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of rows and weights."""
    grads = grad_TH.index_select(0, tokens_R).float()
    gates = weights_TK.flatten().index_select(0, slots_R).unsqueeze(1)
    dots = (grads * rows_RH.float()).sum(-1)
    return (grads * gates).to(grad_TH.dtype), dots[places_TK]


def swiglu(joint_R2F: Tensor, weights_R: Tensor) -> Tensor:
    """The product."""
    gate, up = joint_R2F.chunk(2, -1)
    return (F.silu(gate.float()) * up.float() * weights_R.unsqueeze(1)).to(joint_R2F.dtype)


def swiglu_backward(joint_R2F: Tensor, weights_R: Tensor, grad_RF: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up side by side, and of the weights."""
    gate, up = (half.float() for half in joint_R2F.chunk(2, -1))
    grad = grad_RF.float()
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    upstream = grad * weights_R.unsqueeze(1)
    of_gate = upstream * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat((of_gate, upstream * silu), -1).to(joint_R2F.dtype), (grad * silu * up).sum(-1)


def cast(x_MN: Tensor) -> tuple[Tensor, Tensor]:
    """E4m3 with a scale for 128 numbers of a row."""
    blocks = x_MN.float().unflatten(1, (-1, 128))
    scales = blocks.abs().amax(-1).clamp(min=1e-30) / 448.0
    return (blocks / scales.unsqueeze(-1)).clamp(-448.0, 448.0).flatten(1).to(torch.float8_e4m3fn), scales


def cast_columns(x_MN: Tensor) -> tuple[Tensor, Tensor]:
    """E4m3, turned, with a scale for 128 numbers of a column."""
    numbers, scales = cast(x_MN.t())
    return numbers.contiguous(), scales


def swiglu_fp8(joint_R2F: Tensor, weights_R: Tensor) -> tuple[Tensor, ...]:
    """The product, cast by rows and by columns, for the compiler to fuse."""
    product = swiglu(joint_R2F, weights_R)
    return (*cast(product), *cast_columns(product))
