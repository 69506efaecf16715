"""The norm of all gradients, each parameter counted once however many ranks hold it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meshwright.executor.state.flat import FlatParameters
from meshwright.executor.state.shared_parts import norm_of, repeated_square


def own_square_sum(flats: Sequence[FlatParameters], gradients: Sequence[Tensor], *, counts_tied: bool) -> Tensor:
    """This rank's share of the squared norm, float64: the sum over all ranks is the squared norm of all gradients.

    What several replicas hold, or share, is divided among them; of tied weights only one end counts.
    """
    norms = torch.stack([norm_of(gradient) for gradient in gradients])
    shares = [_share(flat, counts_tied=counts_tied) for flat in flats]
    total = norms.square() @ torch.tensor(shares, dtype=torch.float64).to(norms.device, non_blocking=True)
    for flat, gradient, share in zip(flats, gradients, shares, strict=True):
        if share and any(one.spec.shared(one.groups) is not None for one in flat.owned):
            total -= share * repeated_square(flat, gradient)
    return total


def _share(flat: FlatParameters, *, counts_tied: bool) -> float:
    """The share of a buffer's squared norm that this rank contributes."""
    if flat.kind.tied and flat.holders.ends.size > 1 and not counts_tied:
        return 0.0
    return 1.0 / flat.holders.replicas.size
