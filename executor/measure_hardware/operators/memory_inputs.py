"""One set of inputs of a memory-bound operator, in the order in which its functions take them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from meshwright.executor.layer.functions.norms import rms_norm
from meshwright.executor.layer.functions.rotary import rotary_tables
from meshwright.executor.layer.routing import SortedSlots, sort_slots
from meshwright.executor.measure_hardware.memory_case import MemoryCase, MemoryOperator
from meshwright.executor.measure_hardware.operators.memory_functions import EPSILON, ROPE_HEAD_DIM, ROPE_THETA
from meshwright.executor.measure_hardware.operators.values import normal, source, uniform, unwritten

Tensors = tuple[torch.Tensor, ...]

EXPERTS = 128
"""Experts among which rows are sorted."""


def memory_inputs(case: MemoryCase, device: torch.device, *, eager: bool) -> Tensors:
    """Random tensors; `eager`: logits are the float32 copy that eager frameworks make."""
    if case.operator in (MemoryOperator.CROSS_ENTROPY, MemoryOperator.CROSS_ENTROPY_BACKWARD):
        return _scored(case, device, eager=eager)
    return MAKERS[case.operator](case, device)


def _plain(count: int) -> Callable[[MemoryCase, torch.device], Tensors]:
    return lambda case, device: tuple(normal((case.rows, case.width), device) for _ in range(count))


def _copied(case: MemoryCase, device: torch.device) -> Tensors:
    shape = (case.rows, case.width)
    return normal(shape, device), unwritten(shape, device)


def _normed(case: MemoryCase, device: torch.device) -> Tensors:
    return normal((case.rows, case.width), device), normal((case.width,), device)


def _normed_backward(case: MemoryCase, device: torch.device) -> Tensors:
    """Gradient, residual's gradient, input, weight, and what the forward kept."""
    gradient, residual, x = _plain(3)(case, device)
    weight = normal((case.width,), device)
    return gradient, residual, x, weight, rms_norm(x, weight, EPSILON)[1]


def _rotated(case: MemoryCase, device: torch.device) -> Tensors:
    positions = torch.arange(case.rows, device=device)
    return normal((case.rows, case.width), device), *rotary_tables(positions, ROPE_HEAD_DIM, ROPE_THETA, torch.bfloat16)


def _slots(case: MemoryCase, device: torch.device) -> SortedSlots:
    """Tokens go to experts by chance; rows are sorted as the executor sorts them."""
    scores = uniform((case.rows // case.top_k, EXPERTS), device)
    return sort_slots(scores.topk(case.top_k, dim=-1).indices)[0]


def _gates(case: MemoryCase, device: torch.device) -> torch.Tensor:
    return uniform((case.rows // case.top_k, case.top_k), device)


def _permuted(case: MemoryCase, device: torch.device) -> Tensors:
    """Tokens, (T, H); gate weights, (T, K); slots, (R,)."""
    return normal((case.rows // case.top_k, case.width), device), _gates(case, device), _slots(case, device).slots_R


def _permuted_backward(case: MemoryCase, device: torch.device) -> Tensors:
    """Gradients of the rows, (R, H), and of their gate weights, (R, 1); places, (T, K)."""
    return normal((case.rows, case.width), device), uniform((case.rows, 1), device), _slots(case, device).places_TK


def _unpermuted(case: MemoryCase, device: torch.device) -> Tensors:
    """Rows, (R, H); places, (T, K)."""
    return normal((case.rows, case.width), device), _slots(case, device).places_TK


def _unpermuted_backward(case: MemoryCase, device: torch.device) -> Tensors:
    """Gradients of the tokens, (T, H); gate weights, (T, K), of which the shape counts; slots, (R,)."""
    return _permuted(case, device)


def _routed(case: MemoryCase, device: torch.device) -> Tensors:
    """Logits, (T, E), and the gradient of the gate weights, (T, K)."""
    return normal((case.rows, case.width), device, torch.float32), normal(
        (case.rows, case.top_k), device, torch.float32
    )


def _scaled(case: MemoryCase, device: torch.device) -> Tensors:
    return normal((case.rows, case.width), device), torch.ones((), device=device, dtype=torch.bfloat16)


def _scored(case: MemoryCase, device: torch.device, *, eager: bool) -> Tensors:
    logits = normal((case.rows, case.width), device, torch.float32 if eager else torch.bfloat16)
    labels = torch.randint(case.width, (case.rows,), device=device, generator=source(device))
    maximum = logits.float().amax(1)
    return logits, labels, maximum, torch.exp(logits.float() - maximum[:, None]).sum(1)


MAKERS: dict[MemoryOperator, Callable[[MemoryCase, torch.device], Tensors]] = {
    MemoryOperator.COPY: _copied,
    MemoryOperator.NORM: _normed,
    MemoryOperator.NORM_BACKWARD: _normed_backward,
    MemoryOperator.RESIDUAL: _plain(2),
    MemoryOperator.ROPE: _rotated,
    MemoryOperator.SWIGLU: _plain(2),
    MemoryOperator.SWIGLU_BACKWARD: _plain(3),
    MemoryOperator.PERMUTE: _permuted,
    MemoryOperator.PERMUTE_BACKWARD: _permuted_backward,
    MemoryOperator.UNPERMUTE: _unpermuted,
    MemoryOperator.UNPERMUTE_BACKWARD: _unpermuted_backward,
    MemoryOperator.ROUTER: _routed,
    MemoryOperator.ROUTER_BACKWARD: _routed,
    MemoryOperator.CAST_FP8: _scaled,
    MemoryOperator.CAST_FP32: _plain(1),
}
