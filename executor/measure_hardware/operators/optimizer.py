"""AdamW in mixed precision: FP32 gradient, master weight and moments, and the BF16 weight that training uses.

A model's parameters are many tensors; the update takes them as one of 2^20 values each, as many as there are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from meshwright.executor.measure_hardware.memory_case import MemoryCase
from meshwright.executor.measure_hardware.operators.runnable import relative_error
from meshwright.executor.measure_hardware.operators.values import normal, uniform
from meshwright.hardware_profiles.measurements import Implementation

TENSOR_SIZE = 2**20
LEARNING_RATE, BETA1, BETA2, DECAY, EPSILON = 1e-3, 0.9, 0.95, 0.1, 1e-8


class _State:
    """Parameters and what Adam keeps of them."""

    def __init__(self, count: int, device: torch.device) -> None:
        whole, left = divmod(count, TENSOR_SIZE)
        sizes = [TENSOR_SIZE] * whole + [left] * bool(left)
        self.masters, self.gradients, self.means = (
            [normal((size,), device, torch.float32) for size in sizes] for _ in range(3)
        )
        self.squares = [uniform((size,), device) for size in sizes]
        self.weights = [master.bfloat16() for master in self.masters]
        self.steps = [torch.ones((), device=device) for _ in sizes]


def adam_update(case: MemoryCase, implementation: Implementation, device: torch.device) -> Callable[[], object]:
    """One update of rows x width parameters: PyTorch's fused kernel, or operations over lists of tensors."""
    state = _State(case.rows * case.width, device)
    update = _fused if implementation is Implementation.FUSED else _listed

    def run() -> object:
        with torch.no_grad():
            update(state)
            torch._foreach_copy_(state.weights, state.masters)
        return None

    return run


def _fused(state: _State) -> None:
    torch._fused_adamw_(
        state.masters,
        state.gradients,
        state.means,
        state.squares,
        [],
        state.steps,
        lr=LEARNING_RATE,
        beta1=BETA1,
        beta2=BETA2,
        weight_decay=DECAY,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
    )


def _listed(state: _State) -> None:
    """The operations of torch.optim's foreach AdamW at its first step."""
    torch._foreach_mul_(state.masters, 1.0 - LEARNING_RATE * DECAY)
    torch._foreach_lerp_(state.means, state.gradients, 1.0 - BETA1)
    torch._foreach_mul_(state.squares, BETA2)
    torch._foreach_addcmul_(state.squares, state.gradients, state.gradients, 1.0 - BETA2)
    roots = torch._foreach_sqrt(state.squares)
    torch._foreach_div_(roots, (1.0 - BETA2) ** 0.5)
    torch._foreach_add_(roots, EPSILON)
    torch._foreach_addcdiv_(state.masters, state.means, roots, -LEARNING_RATE / (1.0 - BETA1))


def adam_check(device: torch.device) -> float:
    """Error of both forms' change of the weights against the formula."""
    errors = []
    for update in (_fused, _listed):
        state = _State(4096, device)
        before, mean, square, gradient = (
            part[0].clone() for part in (state.masters, state.means, state.squares, state.gradients)
        )
        mean = BETA1 * mean + (1.0 - BETA1) * gradient
        square = BETA2 * square + (1.0 - BETA2) * gradient**2
        unbiased = mean / (1.0 - BETA1)
        step = LEARNING_RATE * unbiased / ((square / (1.0 - BETA2)).sqrt() + EPSILON)
        update(state)
        errors.append(relative_error(state.masters[0], before * (1.0 - LEARNING_RATE * DECAY) - step))
    return max(errors)
