"""The norm of all gradients, each parameter counted once however many ranks hold it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meshwright.executor.state.flat import FlatParameters
from meshwright.executor.state.shared_parts import repeated_square


def own_square_sum(flats: Sequence[FlatParameters], gradients: Sequence[Tensor], *, counts_tied: bool) -> Tensor:
    """This rank's share of the squared norm, float64: the sum over all ranks is the squared norm of all gradients.

    What several replicas hold, or share, is divided among them; of tied weights only one end counts.
    """
    total = torch.zeros((), dtype=torch.float64, device=gradients[0].device)
    for flat, gradient in zip(flats, gradients, strict=True):
        if flat.kind.tied and flat.holders.ends.size > 1 and not counts_tied:
            continue
        square = torch.linalg.vector_norm(gradient).to(torch.float64).square() - repeated_square(flat, gradient)
        total += square / flat.holders.replicas.size
    return total
