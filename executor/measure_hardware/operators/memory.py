"""Memory-bound operators ready to run: plain, compiled, or one kernel that PyTorch ships."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from meshwright.costmodel.program.operators import Precision
from meshwright.executor.measure_hardware.memory_case import MemoryCase, MemoryOperator
from meshwright.executor.measure_hardware.operators import memory_functions as functions
from meshwright.executor.measure_hardware.operators.custom_kernels import custom_kernel
from meshwright.executor.measure_hardware.operators.memory_inputs import memory_inputs
from meshwright.executor.measure_hardware.operators.optimizer import adam_check, adam_update
from meshwright.executor.measure_hardware.operators.runnable import LIMITS, Runnable, relative_error
from meshwright.hardware_profiles.measurements import Implementation

Tensors = tuple[torch.Tensor, ...]
Function = Callable[..., Any]

FP8_ROUNDING = 4e-2
"""E4m3 keeps three bits of the mantissa."""


def _loss(logits: torch.Tensor, labels: torch.Tensor, maximum: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    del maximum, total
    return functions.loss(logits, labels)


PLAIN: dict[MemoryOperator, Function] = {
    MemoryOperator.COPY: lambda source, target: target.copy_(source),
    MemoryOperator.NORM: functions.norm,
    MemoryOperator.NORM_BACKWARD: functions.norm_backward,
    MemoryOperator.RESIDUAL: torch.add,
    MemoryOperator.ROPE: functions.rope,
    MemoryOperator.SWIGLU: functions.swiglu,
    MemoryOperator.SWIGLU_BACKWARD: functions.swiglu_backward,
    MemoryOperator.PERMUTE: functions.permute,
    MemoryOperator.PERMUTE_BACKWARD: functions.permute_backward,
    MemoryOperator.UNPERMUTE: functions.unpermute,
    MemoryOperator.UNPERMUTE_BACKWARD: functions.unpermute_backward,
    MemoryOperator.ROUTER: functions.route,
    MemoryOperator.ROUTER_BACKWARD: functions.route_backward,
    MemoryOperator.CAST_FP8: functions.cast_fp8,
    MemoryOperator.CAST_FP32: lambda x: x.to(torch.float32),
    MemoryOperator.CROSS_ENTROPY: _loss,
    MemoryOperator.CROSS_ENTROPY_BACKWARD: functions.loss_backward,
}
"""What is compiled, and the reference when the inputs are in float32. Every function takes all of its inputs."""

EAGER: dict[MemoryOperator, Function] = {
    MemoryOperator.ROPE: functions.rope_eager,
    MemoryOperator.SWIGLU: functions.swiglu_eager,
    MemoryOperator.SWIGLU_BACKWARD: functions.swiglu_backward_eager,
    MemoryOperator.PERMUTE_BACKWARD: functions.permute_backward_eager,
    MemoryOperator.UNPERMUTE: functions.unpermute_eager,
    MemoryOperator.ROUTER: functions.route_eager,
}
"""Where eager code is another formula than the compiled one."""

SHIPPED: dict[MemoryOperator, Function] = {
    MemoryOperator.NORM: functions.shipped_norm,
    MemoryOperator.NORM_BACKWARD: functions.shipped_norm_backward,
}
"""PyTorch's own kernels, where they are not what `PLAIN` calls."""


def memory_bound(case: MemoryCase, implementation: Implementation, device: torch.device, num_sets: int) -> Runnable:
    """The operator of `case`."""
    if case.operator is MemoryOperator.OPTIMIZER:
        updates = [adam_update(case, implementation, device) for _ in range(num_sets)]
        return Runnable(run=lambda index: updates[index](), num_sets=num_sets, check=lambda: adam_check(device))
    sets = [memory_inputs(case, device, eager=implementation is Implementation.EAGER) for _ in range(num_sets)]
    runs = [_bound(case.operator, implementation, inputs) for inputs in sets]
    limit = FP8_ROUNDING if case.operator is MemoryOperator.CAST_FP8 else LIMITS[Precision.BF16]
    return Runnable(
        run=lambda index: runs[index](),
        num_sets=num_sets,
        check=lambda: _error(case.operator, sets[0], runs[0]()),
        limit=limit,
    )


def _bound(operator: MemoryOperator, implementation: Implementation, inputs: Tensors) -> Callable[[], Any]:
    """The operator on one input set."""
    if implementation is Implementation.CUSTOM:
        return custom_kernel(operator, inputs)
    if implementation is Implementation.EAGER and operator in PREPARED:
        return PREPARED[operator](*inputs)
    if implementation is Implementation.COMPILED:
        function = _compiled(operator)
    elif implementation is Implementation.FUSED:
        function = SHIPPED.get(operator, PLAIN[operator])
    else:
        function = EAGER.get(operator, PLAIN[operator])

    def run() -> Any:  # noqa: ANN401  one tensor or several
        with torch.no_grad():
            return function(*inputs)

    return run


@cache
def _compiled(operator: MemoryOperator) -> Function:
    return torch.compile(PLAIN[operator])


# Autograd's backward, as in a framework: the forward runs once, outside of the timing.


def _autograd(function: Function, leaves: Tensors, gradient: torch.Tensor | None, *rest: Any) -> Callable[[], Tensors]:  # noqa: ANN401
    own = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    output = function(*own, *rest)
    return lambda: torch.autograd.grad(output, own, gradient, retain_graph=True)


def _loss_backward(logits: torch.Tensor, labels: torch.Tensor, maximum: torch.Tensor, total: torch.Tensor) -> Function:
    del maximum, total  # autograd keeps its own
    return _autograd(lambda x: functions.loss(x, labels), (logits.bfloat16(),), None)


PREPARED: dict[MemoryOperator, Callable[..., Callable[[], Any]]] = {
    MemoryOperator.ROUTER_BACKWARD: functions.route_backward_eager,
    MemoryOperator.CROSS_ENTROPY_BACKWARD: _loss_backward,
}
"""Eager backwards that need something of the forward, which is made outside of the timing."""


def _error(operator: MemoryOperator, inputs: Tensors, result: Any) -> float:  # noqa: ANN401
    """Against the plain formula on float32 inputs; a permutation's indices stay as they are."""
    wide = [x.detach().float() if x.is_floating_point() else x for x in inputs]
    if operator is MemoryOperator.COPY:
        wide[1] = torch.empty_like(wide[1])
    with torch.no_grad():
        expected = wide[0] if operator is MemoryOperator.CAST_FP8 else PLAIN[operator](*wide)
    pairs = zip(_as_tuple(result), _as_tuple(expected), strict=False)
    return max(relative_error(mine, theirs) for mine, theirs in pairs if mine.is_floating_point())


def _as_tuple(value: Any) -> Tensors:  # noqa: ANN401
    return value if isinstance(value, tuple) else (value,)
