"""Attention by the fused kernels that torch has for CUDA, called as its autograd calls them.

(B, N, S, D), grouped queries as they are. The positions of arguments are those of torch 2.11 and 2.13.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.executor.layer.functions.masks import CAUSAL, Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """What a forward kernel leaves for its backward: cumulative lengths and random states (unused here), lengths.

    sums_dim: dims of the log of the softmax's sums as the kernel has it, (B, N, S) or (B, N, S, 1).
    """

    tensors: tuple[Tensor | None, ...] = ()
    lengths: tuple[int, ...] = ()
    sums_dim: int = 3


def cudnn(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Mask = CAUSAL
) -> tuple[Tensor, Tensor, KernelState]:
    """Output, log of the softmax's sums, state."""
    results = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, mask.causal, False, scale=scale
    )
    out, sums, starts_q, starts_k, max_q, max_k, seed, offset, _ = results
    state = KernelState(tensors=(starts_q, starts_k, seed, offset), lengths=(max_q, max_k), sums_dim=sums.dim())
    return out, sums, state


def cudnn_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    state: KernelState,
    scale: float,
    mask: Mask = CAUSAL,
) -> list[Tensor]:
    """Gradients of queries, keys and values."""
    starts_q, starts_k, seed, offset = state.tensors
    max_q, max_k = state.lengths
    if sums.dim() < state.sums_dim:
        sums = sums.unsqueeze(-1)
    grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        grad,
        query,
        key,
        value,
        out,
        sums,
        seed,
        offset,
        None,
        starts_q,
        starts_k,
        max_q,
        max_k,
        0.0,
        mask.causal,
        scale=scale,
    )
    return list(grads)


def fa2(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Mask = CAUSAL
) -> tuple[Tensor, Tensor, KernelState]:
    """As `cudnn`; a narrower value head is padded to the key's, which FlashAttention-2 needs."""
    padded = _padded(value, query.shape[-1])
    results = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, padded, 0.0, mask.causal, False, scale=scale
    )
    out, sums, starts_q, starts_k, max_q, max_k, seed, offset, _ = results
    state = KernelState(tensors=(starts_q, starts_k, seed, offset), lengths=(max_q, max_k))
    return out.narrow(-1, 0, value.shape[-1]), sums, state


def fa2_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    state: KernelState,
    scale: float,
    mask: Mask = CAUSAL,
) -> list[Tensor]:
    """Gradients of queries, keys and values."""
    starts_q, starts_k, seed, offset = state.tensors
    max_q, max_k = state.lengths
    width = query.shape[-1]
    grad_query, grad_key, grad_value = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        _padded(grad, width),
        query,
        key,
        _padded(value, width),
        _padded(out, width),
        sums,
        starts_q,
        starts_k,
        max_q,
        max_k,
        0.0,
        mask.causal,
        seed,
        offset,
        scale=scale,
    )
    return [grad_query, grad_key, grad_value.narrow(-1, 0, value.shape[-1])]


def _padded(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))
