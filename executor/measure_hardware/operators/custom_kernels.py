"""Meshwright's CUDA kernels as operators of the survey: on the inputs of the others, maps of rows made beforehand.

On a device without kernels their PyTorch references run, which is how results are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from meshwright.executor.layer.routing import inverse
from meshwright.executor.measure_hardware.memory_case import MemoryOperator
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.index.operator import index
from meshwright.kernels.permute.operator import permute, permute_backward, unpermute, unpermute_backward
from meshwright.kernels.route.contract import RouteOptions
from meshwright.kernels.route.operator import route, route_backward
from meshwright.kernels.swiglu.operator import swiglu, swiglu_backward

Tensors = tuple[Tensor, ...]
Run = Callable[[], Tensor | Tensors]


def custom_kernel(operator: MemoryOperator, inputs: Tensors) -> Run:
    """The kernel on a set of inputs; what it needs beside them is made here, outside of the timing."""
    return PREPARED[operator](*inputs)


def _route(logits_TE: Tensor, gradient_TK: Tensor) -> Run:
    """The choice of experts, their weights and the maps of rows that follow: what the executor's router does."""
    options = RouteOptions(top_k=gradient_TK.shape[1])

    def run() -> Tensors:
        routed = route(logits_TE, options, sums=False)
        rowmap = index(routed.experts_TK, logits_TE.shape[1])
        return routed.weights_TK, routed.experts_TK, rowmap.slots_P, rowmap.offsets_E

    return run


def _route_backward(logits_TE: Tensor, gradient_TK: Tensor) -> Run:
    options = RouteOptions(top_k=gradient_TK.shape[1])
    routed = route(logits_TE, options, sums=False)
    return lambda: route_backward(logits_TE, routed.experts_TK, routed.weights_TK, gradient_TK, None, options)


def _permute(x_TH: Tensor, weights_TK: Tensor, slots_R: Tensor) -> Run:
    rowmap, weights = _map_of(slots_R, weights_TK.shape[1]), weights_TK.float()

    def run() -> Tensors:
        permuted = permute(x_TH, rowmap, weights)
        assert permuted.gates_P is not None
        return permuted.rows_PH, permuted.gates_P.unsqueeze(1)

    return run


def _permute_backward(rows_RH: Tensor, gates_R1: Tensor, places_TK: Tensor) -> Run:
    rowmap, gates = _map_at(places_TK), gates_R1.squeeze(1).float()

    def run() -> Tensors:
        gradients = permute_backward(rows_RH, rowmap, gates)
        assert gradients.weights_TK is not None
        return gradients.tokens_TH, gradients.weights_TK

    return run


def _unpermute(rows_RH: Tensor, places_TK: Tensor) -> Run:
    rowmap = _map_at(places_TK)
    return lambda: unpermute(rows_RH, rowmap)


def _unpermute_backward(gradient_TH: Tensor, weights_TK: Tensor, slots_R: Tensor) -> Run:
    rowmap = _map_of(slots_R, weights_TK.shape[1])
    return lambda: unpermute_backward(gradient_TH, None, rowmap).rows_PH


def _swiglu(gate: Tensor, up: Tensor) -> Run:
    return lambda: swiglu(gate, up)


def _swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> Run:
    return lambda: swiglu_backward(gate, up, gradient).joint_P2F


PREPARED: Final[Mapping[MemoryOperator, Callable[..., Run]]] = {
    MemoryOperator.ROUTER: _route,
    MemoryOperator.ROUTER_BACKWARD: _route_backward,
    MemoryOperator.PERMUTE: _permute,
    MemoryOperator.PERMUTE_BACKWARD: _permute_backward,
    MemoryOperator.UNPERMUTE: _unpermute,
    MemoryOperator.UNPERMUTE_BACKWARD: _unpermute_backward,
    MemoryOperator.SWIGLU: _swiglu,
    MemoryOperator.SWIGLU_BACKWARD: _swiglu_backward,
}


def _map_of(slots_R: Tensor, top_k: int) -> RowMap:
    return _map(slots_R, inverse(slots_R).view(-1, top_k))


def _map_at(places_TK: Tensor) -> RowMap:
    return _map(inverse(places_TK.flatten()), places_TK)


def _map(slots_R: Tensor, places_TK: Tensor) -> RowMap:
    """Rows as one group: where a group ends matters to padding alone, of which there is none."""
    count = torch.full((1,), slots_R.numel(), dtype=torch.int32, device=slots_R.device)
    slots, places = slots_R.to(torch.int32), places_TK.to(torch.int32)
    return RowMap(slots_P=slots, places_TK=places, counts_E=count, offsets_E=count, tile=1)
