"""`torch.ops.meshwright.permute` and `unpermute`, for autograd and torch.compile. What is absent is an empty tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meshwright.kernels.index.library import row_map
from meshwright.kernels.library_name import NAMESPACE, ROW_MAP
from meshwright.kernels.permute.operator import permute, permute_backward, unpermute, unpermute_backward

Map = tuple[Tensor, Tensor, Tensor, Tensor, int]


def _or_empty(tensor: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0, dtype=torch.float32) if tensor is None else tensor


@torch.library.custom_op(
    f"{NAMESPACE}::permute",
    mutates_args=(),
    schema=f"(Tensor tokens, Tensor? weights, {ROW_MAP}) -> (Tensor, Tensor)",
)
def permute_op(tokens: Tensor, weights: Tensor | None, *rowmap: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Rows and their gates."""
    permuted = permute(tokens, row_map(*rowmap), weights)
    return permuted.rows_PH, _or_empty(permuted.gates_P, tokens)


@permute_op.register_fake
def _fake_permute(tokens: Tensor, weights: Tensor | None, slots: Tensor, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    gates = tokens.new_empty(0, dtype=torch.float32) if weights is None else weights.new_empty(slots.shape[0])
    return tokens.new_empty(slots.shape[0], tokens.shape[1]), gates


@torch.library.custom_op(
    f"{NAMESPACE}::permute_backward",
    mutates_args=(),
    schema=f"(Tensor grad_rows, Tensor? grad_gates, {ROW_MAP}) -> (Tensor, Tensor)",
)
def permute_backward_op(grad_rows: Tensor, grad_gates: Tensor | None, *rowmap: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Gradients of tokens and weights."""
    gradients = permute_backward(grad_rows, row_map(*rowmap), grad_gates)
    return gradients.tokens_TH, _or_empty(gradients.weights_TK, grad_rows)


@permute_backward_op.register_fake
def _fake_permute_backward(
    grad_rows: Tensor,
    grad_gates: Tensor | None,
    slots: Tensor,  # noqa: ARG001
    places: Tensor,
    *_: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    weights = grad_rows.new_empty(0, dtype=torch.float32) if grad_gates is None else grad_gates.new_empty(places.shape)
    return grad_rows.new_empty(places.shape[0], grad_rows.shape[1]), weights


@torch.library.custom_op(
    f"{NAMESPACE}::unpermute", mutates_args=(), schema=f"(Tensor rows, Tensor? weights, {ROW_MAP}) -> Tensor"
)
def unpermute_op(rows: Tensor, weights: Tensor | None, *rowmap: Any) -> Tensor:  # noqa: ANN401
    """The sum of each token's rows."""
    return unpermute(rows, row_map(*rowmap), weights)


@unpermute_op.register_fake
def _fake_unpermute(rows: Tensor, weights: Tensor | None, slots: Tensor, places: Tensor, *_: Any) -> Tensor:  # noqa: ANN401, ARG001
    return rows.new_empty(places.shape[0], rows.shape[1])


@torch.library.custom_op(
    f"{NAMESPACE}::unpermute_backward",
    mutates_args=(),
    schema=f"(Tensor grad_tokens, Tensor? rows, Tensor? weights, {ROW_MAP}) -> (Tensor, Tensor)",
)
def unpermute_backward_op(
    grad_tokens: Tensor,
    rows: Tensor | None,
    weights: Tensor | None,
    *rowmap: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    """Gradients of rows and weights."""
    gradients = unpermute_backward(grad_tokens, rows, row_map(*rowmap), weights)
    return gradients.rows_PH, _or_empty(gradients.weights_TK, grad_tokens)


@unpermute_backward_op.register_fake
def _fake_unpermute_backward(
    grad_tokens: Tensor,
    rows: Tensor | None,  # noqa: ARG001
    weights: Tensor | None,
    slots: Tensor,
    places: Tensor,
    *_: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    dots = grad_tokens.new_empty(0, dtype=torch.float32) if weights is None else weights.new_empty(places.shape)
    return grad_tokens.new_empty(slots.shape[0], grad_tokens.shape[1]), dots


def _save_permute(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401, ARG001
    _, weights, *maps, ctx.tile = inputs
    ctx.weighted = weights is not None
    ctx.save_for_backward(*maps)


def _permute_backward(ctx: Any, grad_rows: Tensor, grad_gates: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
    gates = grad_gates if ctx.weighted else None
    tokens, weights = torch.ops.meshwright.permute_backward(grad_rows, gates, *ctx.saved_tensors, ctx.tile)
    return tokens, weights if ctx.weighted else None, *[None] * 5


def _save_unpermute(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401, ARG001
    rows, weights, *maps, ctx.tile = inputs
    ctx.save_for_backward(None if weights is None else rows, weights, *maps)


def _unpermute_backward(ctx: Any, grad_tokens: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
    rows, weights, *maps = ctx.saved_tensors
    grad_rows, dots = torch.ops.meshwright.unpermute_backward(grad_tokens, rows, weights, *maps, ctx.tile)
    return grad_rows, None if weights is None else dots, *[None] * 5


permute_op.register_autograd(_permute_backward, setup_context=_save_permute)
unpermute_op.register_autograd(_unpermute_backward, setup_context=_save_unpermute)
