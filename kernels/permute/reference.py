"""Moving rows in plain PyTorch: the truth, on any device. Nothing waits for the device."""

from __future__ import annotations

from torch import Tensor

from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.permute.contract import Permuted, PermuteGradients, UnpermuteGradients
from meshwright.kernels.tensors import wide


def _of_rows(items_NW: Tensor, numbers_P: Tensor, rowmap: RowMap) -> Tensor:
    """The item of each row's number; zero for padding."""
    if items_NW.shape[0] == 0:
        return items_NW.new_zeros(rowmap.capacity, *items_NW.shape[1:])
    picked: Tensor = items_NW.index_select(0, numbers_P.clamp(min=0))
    return picked.masked_fill(_column(rowmap.slots_P < 0, picked.dim()), 0)


def _of_slot(slots_TKW: Tensor, rowmap: RowMap) -> Tensor:
    """What belongs to each row's slot."""
    return _of_rows(slots_TKW.flatten(0, 1), rowmap.slots_P, rowmap)


def _of_token(tokens_TH: Tensor, rowmap: RowMap) -> Tensor:
    """What belongs to each row's token."""
    return _of_rows(tokens_TH, rowmap.slots_P // rowmap.places_TK.shape[1], rowmap)


def _column(rows: Tensor, dims: int) -> Tensor:
    """The same numbers with dims of size one behind."""
    return rows.view(*rows.shape, *[1] * (dims - rows.dim()))


def _of_slots(rows_PW: Tensor, rowmap: RowMap) -> Tensor:
    """What stands in each slot's row, (T, K, W); zero where its expert is not here."""
    places = rowmap.places_TK
    if rows_PW.shape[0] == 0:
        return rows_PW.new_zeros(*places.shape, *rows_PW.shape[1:])
    picked: Tensor = rows_PW.index_select(0, places.flatten().clamp(min=0)).unflatten(0, places.shape)
    return picked.masked_fill(_column(places < 0, picked.dim()), 0)


def permute_reference(tokens_TH: Tensor, rowmap: RowMap, weights_TK: Tensor | None) -> Permuted:
    """A row for each slot that is here."""
    gates = None if weights_TK is None else _of_slot(weights_TK, rowmap)
    return Permuted(rows_PH=_of_token(tokens_TH, rowmap), gates_P=gates)


def permute_backward_reference(grad_rows_PH: Tensor, rowmap: RowMap, grad_gates_P: Tensor | None) -> PermuteGradients:
    """The sum of each token's gradients; each slot's own of the gate."""
    return PermuteGradients(
        tokens_TH=unpermute_reference(grad_rows_PH, rowmap, None),
        weights_TK=None if grad_gates_P is None else _of_slots(grad_gates_P, rowmap),
    )


def unpermute_reference(rows_PH: Tensor, rowmap: RowMap, weights_TK: Tensor | None) -> Tensor:
    """The weighted sum of each token's rows."""
    format_ = wide(rows_PH.dtype)
    rows = _of_slots(rows_PH, rowmap).to(format_)
    if weights_TK is not None:
        rows = rows * weights_TK.to(format_).unsqueeze(-1)
    return rows.sum(1).to(rows_PH.dtype)


def unpermute_backward_reference(
    grad_tokens_TH: Tensor, rows_PH: Tensor | None, rowmap: RowMap, weights_TK: Tensor | None
) -> UnpermuteGradients:
    """Each row gets its token's gradient times its weight; each weight the product of both rows, summed."""
    grads = _of_token(grad_tokens_TH, rowmap)
    if weights_TK is None or rows_PH is None:
        return UnpermuteGradients(rows_PH=grads, weights_TK=None)
    format_ = wide(grads.dtype)
    weighted = grads.to(format_) * _of_slot(weights_TK, rowmap).to(format_).unsqueeze(-1)
    dots = (grads.to(format_) * rows_PH.to(format_)).sum(-1).to(weights_TK.dtype)
    return UnpermuteGradients(rows_PH=weighted.to(grads.dtype), weights_TK=_of_slots(dots, rowmap))
