"""`torch.ops.meshwright.swiglu`, for autograd and torch.compile. What is not there is an empty tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.index.library import row_map
from meshwright.kernels.library_name import NAMESPACE
from meshwright.kernels.swiglu.operator import swiglu, swiglu_backward

OPTIONAL_MAP = "Tensor? slots, Tensor? places, Tensor? counts, Tensor? offsets, int tile"
_ROWS = f"Tensor? weights, {OPTIONAL_MAP}"


def optional_map(slots: Tensor | None, *others: Any) -> RowMap | None:  # noqa: ANN401
    """The map of an operator's arguments, where it is there."""
    return None if slots is None else row_map(slots, *others)


@torch.library.custom_op(f"{NAMESPACE}::swiglu", mutates_args=(), schema=f"(Tensor gate, Tensor up, {_ROWS}) -> Tensor")
def swiglu_op(gate: Tensor, up: Tensor, weights: Tensor | None, *rowmap: Any) -> Tensor:  # noqa: ANN401
    """Silu(gate) * up * weights."""
    return swiglu(gate, up, weights, optional_map(*rowmap))


@swiglu_op.register_fake
def _fake(gate: Tensor, *_: Any) -> Tensor:  # noqa: ANN401
    return gate.new_empty(gate.shape)


@torch.library.custom_op(
    f"{NAMESPACE}::swiglu_backward",
    mutates_args=(),
    schema=f"(Tensor gate, Tensor up, Tensor grad, {_ROWS}) -> (Tensor, Tensor)",
)
def swiglu_backward_op(
    gate: Tensor,
    up: Tensor,
    grad: Tensor,
    weights: Tensor | None,
    *rowmap: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up side by side, and of the weights."""
    gradients = swiglu_backward(gate, up, grad, weights, optional_map(*rowmap))
    of_weights = gradients.weights_P
    return gradients.joint_P2F, gate.new_empty(0, dtype=torch.float32) if of_weights is None else of_weights


@swiglu_backward_op.register_fake
def _fake_backward(gate: Tensor, up: Tensor, grad: Tensor, weights: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401, ARG001
    dots = gate.new_empty(0, dtype=torch.float32) if weights is None else weights.new_empty(weights.shape)
    return gate.new_empty(gate.shape[0], 2 * gate.shape[1]), dots


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401, ARG001
    *tensors, ctx.tile = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
    gate, up, weights, *maps = ctx.saved_tensors
    joint, dots = torch.ops.meshwright.swiglu_backward(gate, up, grad, weights, *maps, ctx.tile)
    of_gate, of_up = joint.chunk(2, -1)
    return of_gate, of_up, None if weights is None else dots, *[None] * 5


swiglu_op.register_autograd(_backward, setup_context=_save)
