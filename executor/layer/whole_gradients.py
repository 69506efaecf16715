"""Gradients of whole parameters, put together from the parts that ranks hold."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.collectives import all_reduce
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameters import Parameters, ParameterSpec


def whole_gradients(
    specs: tuple[ParameterSpec, ...], parameters: Parameters, groups: LayerGroups, all_ranks: Communicator
) -> dict[str, Tensor]:
    """The sum over all ranks, by parameter; a parameter without a gradient is left out.

    Right where every rank adds something of its own: its tokens, or its part of the parameter.
    """
    found = {}
    for spec in specs:
        if spec.name not in parameters.gradients:
            continue
        own = parameters.gradients[spec.name]
        whole = torch.zeros(spec.shape, dtype=own.dtype, device=own.device)
        spec.add_part(whole, own, groups)
        found[spec.name] = all_reduce(whole, all_ranks)
    return found
