"""Fused attention through PyTorch's scaled_dot_product_attention with one kernel forced: cuDNN or FlashAttention-2.

Tensors lie by tokens (batch, tokens, heads, size), as projections write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from meshwright.costmodel.formulas.attention import is_causal
from meshwright.costmodel.program.operators import AttentionWork
from meshwright.executor.measure_hardware.operators.runnable import Runnable, relative_error
from meshwright.executor.measure_hardware.operators.values import normal
from meshwright.hardware_profiles.measurements import Implementation

BACKENDS = {Implementation.CUDNN: SDPBackend.CUDNN_ATTENTION, Implementation.FA2: SDPBackend.FLASH_ATTENTION}


def attention(work: AttentionWork, implementation: Implementation, device: torch.device, num_sets: int) -> Runnable:
    """Forward or backward of `work`.

    Where the kernel does not take shared key-value heads, they are expanded beforehand, outside of the timing.
    """
    backend = BACKENDS[implementation] if device.type == "cuda" else SDPBackend.MATH
    with sdpa_kernel([backend]):
        shares_heads = _takes_shared_heads(work, device)
    sets = [_Inputs(work, device, expands=not shares_heads) for _ in range(num_sets)]

    @contextmanager
    def forced() -> Iterator[None]:
        with sdpa_kernel([backend]):
            yield

    def forward(index: int) -> torch.Tensor:
        with torch.no_grad(), forced():
            return sets[index].output()

    if not work.backward:
        return Runnable(run=forward, num_sets=num_sets, check=lambda: _forward_error(sets[0], forward(0)))
    with forced():
        outputs = [each.output() for each in sets]

    def backward(index: int) -> tuple[torch.Tensor, ...]:
        each = sets[index]
        return torch.autograd.grad(outputs[index], each.leaves, each.gradient, retain_graph=True)

    return Runnable(run=backward, num_sets=num_sets, check=lambda: _backward_error(sets[0], backward(0)))


class _Inputs:
    """Query, key and value of one input set, and the gradient of its output."""

    def __init__(self, work: AttentionWork, device: torch.device, *, expands: bool) -> None:
        self.causal = is_causal(work)
        self.shares_heads = work.num_kv_heads < work.num_heads and not expands
        kv_heads = work.num_heads if expands else work.num_kv_heads
        query = normal((work.batch, work.query_len, work.num_heads, work.head_dim), device)
        key = normal((work.batch, work.key_len, kv_heads, work.head_dim), device)
        value = normal((work.batch, work.key_len, kv_heads, work.value_head_dim), device)
        self.leaves = tuple(x.transpose(1, 2).requires_grad_(work.backward) for x in (query, key, value))
        shape = (work.batch, work.query_len, work.num_heads, work.value_head_dim)
        self.gradient = normal(shape, device).transpose(1, 2) if work.backward else None

    def output(self) -> torch.Tensor:
        """Attention of these inputs."""
        query, key, value = self.leaves
        return scaled_dot_product_attention(query, key, value, is_causal=self.causal, enable_gqa=self.shares_heads)


def _takes_shared_heads(work: AttentionWork, device: torch.device) -> bool:
    """Whether the forced kernel runs shared key-value heads, tried on one block of tokens."""
    if work.num_kv_heads == work.num_heads:
        return True
    kv_heads = work.num_kv_heads
    shapes = ((work.num_heads, work.head_dim), (kv_heads, work.head_dim), (kv_heads, work.value_head_dim))
    query, key, value = (normal((1, 128, heads, dim), device).transpose(1, 2).requires_grad_() for heads, dim in shapes)
    try:
        scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    except RuntimeError:
        return False
    return True


# Heads are independent: one key-value head of the first sequence, with the query heads that share it, is compared.


def _group(each: _Inputs) -> tuple[list[torch.Tensor], int]:
    """The float32 inputs of the first key-value head, and how many query heads share it."""
    query, key, value = each.leaves
    sharing = query.shape[1] // key.shape[1]
    parts = (query[:1, :sharing], key[:1, :1], value[:1, :1])
    return [part.detach().float().requires_grad_() for part in parts], sharing


def _reference(each: _Inputs, parts: list[torch.Tensor]) -> torch.Tensor:
    query, key, value = parts
    scores = query @ key.transpose(-2, -1) * float(query.shape[-1]) ** -0.5
    if each.causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(mask, float("-inf"))
    attended: torch.Tensor = scores.softmax(-1) @ value
    return attended


def _forward_error(each: _Inputs, result: torch.Tensor) -> float:
    parts, sharing = _group(each)
    with torch.no_grad():
        return relative_error(result[:1, :sharing], _reference(each, parts))


def _backward_error(each: _Inputs, result: tuple[torch.Tensor, ...]) -> float:
    assert each.gradient is not None  # a backward's inputs have one
    parts, sharing = _group(each)
    expected = torch.autograd.grad(_reference(each, parts), parts, each.gradient[:1, :sharing].float())
    own = (result[0][:1, :sharing], result[1][:1, :1], result[2][:1, :1])
    return max(relative_error(mine, theirs) for mine, theirs in zip(own, expected, strict=True))
