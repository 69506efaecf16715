"""Activations that travel in FP8: a cast before a collective, a cast or a sum in FP32 behind it.

A row travels as its numbers in e4m3 and, behind them in the same row, its scale: any collective that moves rows moves
both. Source: MegaScale-MoE (arXiv 2505.11432), section 5: one scale a token, sums in FP32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.collectives import all_to_all_parts
from meshwright.executor.layer.functions import fp8_rows
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.routing import GATES
from meshwright.executor.layer.scope import Scope
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.permute import operator as kernel

QUANTIZE, DEQUANTIZE = ".quantize", ".dequantize"
PARTS = "parts"
"""Rides with rows that arrived: of how many ranks they are to be summed."""
COPIES = "copies"
"""Rides with copies of tokens that came back: the map by which those of a token are to be summed."""


def is_packed(rows: Tensor) -> bool:
    """Whether rows are as they travel in FP8."""
    return rows.dtype is torch.uint8


def quantize(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Rows as they travel; gate weights go on riding along."""
    source, target = operator.reads[0], operator.writes[0]
    gates = scope.values.optional_rider(source, GATES)
    if gates is not None:
        scope.values.ride(target, GATES, gates)
    return {target: fp8_rows.packed(scope.values[source])}


def dequantize(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Rows as they were, or the sum of what ranks have sent; gate weights ride on, or are written where asked for."""
    source, (target, *others) = operator.reads[0], operator.writes
    num_parts = scope.values.take_rider(source, PARTS, int) or 1
    copies, wide = scope.values.take_rider(source, COPIES, RowMap), statistics_type(scope.layer.dtype)
    rows = fp8_rows.summed_rows(scope.values[source], num_parts, scope.layer.dtype if copies is None else wide)
    if copies is not None:
        rows = kernel.unpermute(rows, copies).to(scope.layer.dtype)
    gates = scope.values.optional_rider(source, GATES)
    if others:
        assert gates is not None, f"{operator.name} writes gradients of gate weights"
        return {target: rows, others[0]: gates}
    if gates is not None:
        scope.values.ride(target, GATES, gates)
    return {target: rows}


def exchange_parts(
    operator: Operator, scope: Scope, ranks: Communicator, num_rows: int | None = None
) -> Mapping[str, Tensor]:
    """Equal parts of the rows, one to each rank; what comes from them, in the order of ranks, is yet to be summed.

    `num_rows`: of each part only so many are this rank's.
    """
    source, target = operator.reads[0], operator.writes[0]
    scope.values.ride(target, PARTS, ranks.size)
    parts = all_to_all_parts(scope.values[source].unflatten(0, (ranks.size, -1)), ranks)
    return {target: (parts if num_rows is None else parts[:, :num_rows]).flatten(0, 1)}
