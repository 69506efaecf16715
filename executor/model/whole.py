"""Whole parameters, put together from the parts that ranks hold."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.collectives import all_reduce
from meshwright.executor.model.build import RankModel
from meshwright.executor.state.shared_parts import first_holders_part


def whole_masters(model: RankModel) -> dict[str, Tensor]:
    """The master weights of all parameters of this rank's stages, whole, on every rank of the stage."""
    found = {}
    for flat in model.flats:
        parts = flat.master_parts()
        for owned in flat.owned:
            whole = torch.zeros(owned.spec.shape, dtype=flat.master.dtype, device=flat.weights.device)
            if flat.holders.is_first:
                owned.spec.add_part(whole, first_holders_part(owned, parts[owned.name]), owned.groups)
            found[owned.name] = all_reduce(whole, model.communicators.stage)
    return found
