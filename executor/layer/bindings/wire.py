"""Activations that travel in FP8: a cast before a collective, a cast or a sum in FP32 behind it.

A row travels as its numbers in e4m3 and, behind them in the same row, its scale: any collective that moves rows moves
both. Source: MegaScale-MoE (arXiv 2505.11432), section 5: one scale a token, sums in FP32.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meshwright.costmodel.program.operators import MemoryWork, Operator
from meshwright.executor.layer.collectives import all_to_all_parts
from meshwright.executor.layer.functions import fp8_rows
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.routing import GATES
from meshwright.executor.layer.scope import Scope

QUANTIZE, DEQUANTIZE = ".quantize", ".dequantize"


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
    rows = fp8_rows.summed_rows(scope.values[source], _num_parts(operator), scope.layer.dtype)
    gates = scope.values.optional_rider(source, GATES)
    if others:
        assert gates is not None, f"{operator.name} writes gradients of gate weights"
        return {target: rows, others[0]: gates}
    if gates is not None:
        scope.values.ride(target, GATES, gates)
    return {target: rows}


def _num_parts(operator: Operator) -> int:
    """Of how many ranks' parts the operator makes one: it reads one byte a number of each, and writes two."""
    assert isinstance(operator.work, MemoryWork)
    return round(2 * operator.work.read_bytes / operator.work.write_bytes)


def exchange_parts(rows_TW: Tensor, ranks: Communicator) -> Tensor:
    """Equal parts of the rows, one to each rank; what comes from them, (T, W), in the order of ranks."""
    return all_to_all_parts(rows_TW.unflatten(0, (ranks.size, -1)), ranks).flatten(0, 1)
