"""Checks moving rows: copies to the bit, sums and gradients against float64."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from meshwright.kernels.checking.cases import Case, random_map, random_rows, random_weights
from meshwright.kernels.checking.error import same_bits
from meshwright.kernels.checking.finding import Finding, compared, exact, once_and_again, twice
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.permute.operator import permute, permute_backward, unpermute, unpermute_backward
from meshwright.kernels.permute.reference import (
    permute_backward_reference,
    permute_reference,
    unpermute_backward_reference,
    unpermute_reference,
)


def check_permute(case: Case, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> list[Finding]:
    """All findings of one case in one number format."""
    rowmap = random_map(case, device, generator)
    tokens = random_rows(case.tokens, case.hidden, dtype, device, generator)
    weights = random_weights((case.tokens, case.top_k), device, generator)
    return [
        *_check_forward(case, rowmap, tokens, weights),
        *_check_back(case, rowmap, weights, generator, dtype),
        *_check_sum(case, rowmap, weights, generator, dtype),
        *_check_weighted_backward(case, rowmap, weights, generator, dtype),
    ]


def end_of(rowmap: RowMap) -> int:
    """Rows up to the end of the last group (waits for the device)."""
    return int(rowmap.offsets_E[-1])


def _check_forward(case: Case, rowmap: RowMap, tokens: Tensor, weights: Tensor) -> list[Finding]:
    def run() -> tuple[Tensor, ...]:
        permuted = permute(tokens, rowmap, weights)
        assert permuted.gates_P is not None
        return permuted.rows_PH, permuted.gates_P

    (rows, gates), alike = twice("permute", case.name, run)
    truth, end = permute_reference(tokens, rowmap, weights), end_of(rowmap)
    assert truth.gates_P is not None
    plain = permute(tokens, rowmap).rows_PH
    first = torch.zeros_like(weights)
    first[:, :1] = 1
    home = unpermute(rows, rowmap, first)
    here = rowmap.places_TK[:, 0] >= 0
    return [
        alike,
        exact("permute: rows", case.name, holds=same_bits(rows[:end], truth.rows_PH[:end])),
        exact("permute: rows without gates", case.name, holds=same_bits(plain[:end], truth.rows_PH[:end])),
        exact("permute: gates", case.name, holds=same_bits(gates[:end], truth.gates_P[:end])),
        exact("unpermute after permute", case.name, holds=same_bits(home[here], tokens[here])),
    ]


def _poisoned_rows(rowmap: RowMap, width: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Rows with NaN behind the last group, which nothing may read."""
    rows = random_rows(rowmap.capacity, width, dtype, rowmap.slots_P.device, generator)
    rows[end_of(rowmap) :] = float("nan")
    return rows


def _check_back(
    case: Case, rowmap: RowMap, weights: Tensor, generator: torch.Generator, dtype: torch.dtype
) -> list[Finding]:
    grad = _poisoned_rows(rowmap, case.hidden, dtype, generator)
    gates = random_weights((rowmap.capacity,), weights.device, generator)

    def run() -> tuple[Tensor, ...]:
        gradients = permute_backward(grad, rowmap, gates)
        assert gradients.weights_TK is not None
        return gradients.tokens_TH, gradients.weights_TK

    (tokens, of_weights), alike = twice("permute backward", case.name, run)
    truth = permute_backward_reference(grad.double(), rowmap, gates.double())
    assert truth.weights_TK is not None
    return [
        alike,
        compared("permute backward: tokens", case.name, tokens, truth.tokens_TH),
        compared("permute backward: weights", case.name, of_weights, truth.weights_TK),
    ]


def _check_sum(
    case: Case, rowmap: RowMap, weights: Tensor, generator: torch.Generator, dtype: torch.dtype
) -> list[Finding]:
    rows = _poisoned_rows(rowmap, case.hidden, dtype, generator)
    by_name: dict[str, Tensor | None] = {"": None, " weighted": weights}
    findings = []
    for name, given in by_name.items():
        what = f"unpermute{name}"
        tokens, alike = once_and_again(what, case.name, partial(unpermute, rows, rowmap, given))
        truth = unpermute_reference(rows.double(), rowmap, None if given is None else given.double())
        findings += [alike, compared(what, case.name, tokens, truth)]
    return findings


def _check_weighted_backward(
    case: Case, rowmap: RowMap, weights: Tensor, generator: torch.Generator, dtype: torch.dtype
) -> list[Finding]:
    grad = random_rows(case.tokens, case.hidden, dtype, weights.device, generator)
    rows, end = _poisoned_rows(rowmap, case.hidden, dtype, generator), end_of(rowmap)

    def run() -> tuple[Tensor, ...]:
        gradients = unpermute_backward(grad, rows, rowmap, weights)
        assert gradients.weights_TK is not None
        return gradients.rows_PH, gradients.weights_TK

    (grad_rows, of_weights), alike = twice("unpermute backward", case.name, run)
    truth = unpermute_backward_reference(grad.double(), rows.double(), rowmap, weights.double())
    assert truth.weights_TK is not None
    plain = unpermute_backward(grad, None, rowmap).rows_PH
    copied = permute_reference(grad, rowmap, None).rows_PH
    return [
        alike,
        compared("unpermute backward: rows", case.name, grad_rows[:end], truth.rows_PH[:end]),
        compared("unpermute backward: weights", case.name, of_weights, truth.weights_TK),
        exact("unpermute backward: unweighted rows", case.name, holds=same_bits(plain[:end], copied[:end])),
    ]
