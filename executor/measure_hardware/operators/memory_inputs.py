"""One set of inputs of a memory-bound operator, in the order in which its functions take them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from meshwright.executor.measure_hardware.memory_case import MemoryCase, MemoryOperator
from meshwright.executor.measure_hardware.operators.memory_functions import ROPE_HEAD_DIM
from meshwright.executor.measure_hardware.operators.values import normal, source, uniform, unwritten

Tensors = tuple[torch.Tensor, ...]


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
    return (*_plain(3)(case, device), normal((case.width,), device))


def _rotated(case: MemoryCase, device: torch.device) -> Tensors:
    angles = uniform((case.rows, ROPE_HEAD_DIM), device) * 6.28
    return normal((case.rows, case.width), device), angles.cos().bfloat16(), angles.sin().bfloat16()


def _routing(case: MemoryCase, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The token of each expert row, and the rows of each token: a permutation by chance."""
    order = torch.randperm(case.rows, device=device, generator=source(device))
    return order // case.top_k, order.argsort().view(-1, case.top_k)


def _permuted(case: MemoryCase, device: torch.device) -> Tensors:
    token, _ = _routing(case, device)
    return normal((case.rows // case.top_k, case.width), device), token


def _permuted_backward(case: MemoryCase, device: torch.device) -> Tensors:
    token, row = _routing(case, device)
    return normal((case.rows, case.width), device), row, token


def _unpermuted(case: MemoryCase, device: torch.device) -> Tensors:
    token, row = _routing(case, device)
    weight = uniform((case.rows,), device).bfloat16()
    return normal((case.rows, case.width), device), weight, row, token


def _unpermuted_backward(case: MemoryCase, device: torch.device) -> Tensors:
    token, _ = _routing(case, device)
    gradient = normal((case.rows // case.top_k, case.width), device)
    return gradient, normal((case.rows, case.width), device), uniform((case.rows,), device).bfloat16(), token


def _routed(case: MemoryCase, device: torch.device) -> Tensors:
    logits = normal((case.rows, case.width), device, torch.float32)
    return logits, torch.empty((case.rows, case.top_k), device=device)


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
