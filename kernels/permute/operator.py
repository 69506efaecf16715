"""Moving rows by the CUDA kernels, or by the reference where they can't run. One launch each, nothing waits."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.kernels.dispatch import dispatcher, launch
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.permute.contract import (
    PERMUTE,
    UNPERMUTE,
    Permuted,
    PermuteGradients,
    UnpermuteGradients,
    check_rows,
    check_tokens,
    check_weights,
)
from meshwright.kernels.permute.launch import why_not
from meshwright.kernels.permute.reference import (
    permute_backward_reference,
    permute_reference,
    unpermute_backward_reference,
    unpermute_reference,
)
from meshwright.kernels.tensors import check_shape

PERMUTE_BACKWARD = "permute_backward"
UNPERMUTE_BACKWARD = "unpermute_backward"


def permute(tokens_TH: Tensor, rowmap: RowMap, weights_TK: Tensor | None = None) -> Permuted:
    """Each token's row to the rows of its experts; with weights, the gate weight of each row, too."""
    check_tokens(PERMUTE, tokens_TH, rowmap)
    check_weights(PERMUTE, weights_TK, rowmap)
    tokens, weights = tokens_TH.contiguous(), _contiguous(weights_TK)
    if not dispatcher().runs_cuda(PERMUTE, tokens, why_not("tokens", tokens, rowmap, weights)):
        return permute_reference(tokens, rowmap, weights)
    rows = tokens.new_empty(rowmap.capacity, tokens.shape[1])
    gates = None if weights is None else weights.new_empty(rowmap.capacity)
    launch("permute", tokens.device, tokens, weights, *_maps(rowmap), rows, gates, rowmap.is_padded)
    return Permuted(rows_PH=rows, gates_P=gates)


def permute_backward(grad_rows_PH: Tensor, rowmap: RowMap, grad_gates_P: Tensor | None = None) -> PermuteGradients:
    """Gradients of tokens, and of weights where the gates have one."""
    check_rows(PERMUTE_BACKWARD, grad_rows_PH, rowmap)
    if grad_gates_P is not None:
        check_shape(PERMUTE_BACKWARD, "grad_gates", grad_gates_P, (rowmap.capacity,))
    grad, gates = grad_rows_PH.contiguous(), _contiguous(grad_gates_P)
    if not dispatcher().runs_cuda(PERMUTE_BACKWARD, grad, why_not("grad_rows", grad, rowmap, gates)):
        return permute_backward_reference(grad, rowmap, gates)
    tokens = grad.new_empty(rowmap.places_TK.shape[0], grad.shape[1])
    weights = None if gates is None else gates.new_empty(rowmap.places_TK.shape)
    launch("gather_sum", grad.device, grad, None, gates, *_maps(rowmap), tokens, weights)
    return PermuteGradients(tokens_TH=tokens, weights_TK=weights)


def unpermute(rows_PH: Tensor, rowmap: RowMap, weights_TK: Tensor | None = None) -> Tensor:
    """The sum of each token's rows, weighted where weights are given, (T, H)."""
    check_rows(UNPERMUTE, rows_PH, rowmap)
    check_weights(UNPERMUTE, weights_TK, rowmap)
    rows, weights = rows_PH.contiguous(), _contiguous(weights_TK)
    if not dispatcher().runs_cuda(UNPERMUTE, rows, why_not("rows", rows, rowmap, weights)):
        return unpermute_reference(rows, rowmap, weights)
    tokens = rows.new_empty(rowmap.places_TK.shape[0], rows.shape[1])
    launch("gather_sum", rows.device, rows, weights, None, *_maps(rowmap), tokens, None)
    return tokens


def unpermute_backward(
    grad_tokens_TH: Tensor, rows_PH: Tensor | None, rowmap: RowMap, weights_TK: Tensor | None = None
) -> UnpermuteGradients:
    """Gradients of rows and, where rows were weighted (then `rows_PH` is needed), of weights."""
    check_tokens(UNPERMUTE_BACKWARD, grad_tokens_TH, rowmap)
    check_weights(UNPERMUTE_BACKWARD, weights_TK, rowmap)
    grad, weights = grad_tokens_TH.contiguous(), _contiguous(weights_TK)
    rows = None if weights is None else _contiguous(rows_PH)
    if rows is not None:
        check_shape(UNPERMUTE_BACKWARD, "rows", rows, (rowmap.capacity, grad.shape[1]))
    reason = why_not("grad_tokens", grad, rowmap, weights) or (rows is not None and why_not("rows", rows, rowmap, None))
    if not dispatcher().runs_cuda(UNPERMUTE_BACKWARD, grad, reason or None):
        return unpermute_backward_reference(grad, rows, rowmap, weights)
    grad_rows = grad.new_empty(rowmap.capacity, grad.shape[1])
    grad_weights = None if weights is None else torch.empty_like(weights)
    arguments = (grad, rows, weights, *_maps(rowmap), grad_rows, grad_weights, rowmap.is_padded)
    launch("unpermute_backward", grad.device, *arguments)
    return UnpermuteGradients(rows_PH=grad_rows, weights_TK=grad_weights)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _maps(rowmap: RowMap) -> tuple[Tensor, Tensor, Tensor]:
    return rowmap.places_TK, rowmap.counts_E, rowmap.offsets_E
