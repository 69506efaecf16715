"""Elements that several of the ranks that split a parameter hold copies of, each with a part of their gradient.

Those of key heads where tensor-parallel ranks are more than these; biases behind FC2 of experts that etp ranks share.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.executor.state.flat import FlatParameters, OwnedParameter


def sum_shared(flat: FlatParameters, gradients: Tensor) -> None:
    """Sum the gradients of shared elements over their holders, in place: then all have the same.

    `gradients`: of a whole buffer.
    """
    for one, view in zip(flat.owned, flat.views(gradients).values(), strict=True):
        shared = one.spec.shared(one.groups)
        if shared is not None:
            own = view.view(-1)[shared.start : shared.stop]
            dist.all_reduce(own, group=shared.ranks.group)


def norm_of(values: Tensor) -> Tensor:
    """In float64. The CPU adds in it, too: in float32 a long sum would lose two digits of seven."""
    norm: Tensor = torch.linalg.vector_norm(values, dtype=None if values.is_cuda else torch.float64)
    return norm.to(torch.float64)


def repeated_square(flat: FlatParameters, gradient: Tensor) -> Tensor:
    """The square of what other holders count, too, of a shard's gradient: each element shall count once."""
    total = torch.zeros((), dtype=torch.float64, device=gradient.device)
    for one, first, place in flat.segments():
        shared = one.spec.shared(one.groups)
        if shared is None:
            continue
        begin = place.start + max(0, shared.start - first)
        end = place.start + min(place.stop - place.start, shared.stop - first)
        total += norm_of(gradient[begin : max(begin, end)]).square() * (1.0 - 1.0 / shared.ranks.size)
    return total


def first_holders_part(one: OwnedParameter, part: Tensor) -> Tensor:
    """A rank's part of a parameter, its shared elements zero but on their first holder."""
    shared = one.spec.shared(one.groups)
    if shared is None or shared.ranks.rank == 0:
        return part
    without = part.clone()
    without.view(-1)[shared.start : shared.stop] = 0
    return without
