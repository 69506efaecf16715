"""Collectives over the rows of a tensor, as the operators of a layer need them, issued and waited for in order."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.executor.layer.groups import Communicator

# Renamed in torch 2.13, which warns about the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def all_gather_rows(x: Tensor, ranks: Communicator) -> Tensor:
    """The rows of all ranks, in their order: (size T, ...)."""
    if ranks.size == 1:
        return x
    out = x.new_empty(ranks.size * x.shape[0], *x.shape[1:])
    _all_gather(out, x.contiguous(), group=ranks.group)
    return out


def all_gather_into(out: Tensor, x: Tensor, ranks: Communicator) -> None:
    """The rows of all ranks, in their order, written to `out`."""
    if ranks.size == 1:
        out.copy_(x)
    else:
        _all_gather(out, x.contiguous(), group=ranks.group)


def reduce_scatter_rows(x: Tensor, ranks: Communicator) -> Tensor:
    """This rank's part of the rows, summed over ranks: (T / size, ...)."""
    if ranks.size == 1:
        return x
    out = x.new_empty(x.shape[0] // ranks.size, *x.shape[1:])
    _reduce_scatter(out, x.contiguous(), group=ranks.group)
    return out


def all_reduce(x: Tensor, ranks: Communicator) -> Tensor:
    """The sum over ranks, in a tensor of its own."""
    if ranks.size == 1:
        return x
    out = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out, group=ranks.group)
    return out


def all_reduce_in_place(x: Tensor, ranks: Communicator) -> Tensor:
    """The sum over ranks, in the tensor itself."""
    if ranks.size > 1:
        dist.all_reduce(x, group=ranks.group)
    return x


def all_to_all_rows(x: Tensor, received: list[int], sent: list[int], ranks: Communicator) -> Tensor:
    """Rows to and from every rank: `sent[r]` of them to rank r, `received[r]` from it, in the order of ranks."""
    if ranks.size == 1:
        return x
    out = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), received, sent, group=ranks.group)
    return out


def all_to_all_parts(x: Tensor, ranks: Communicator) -> Tensor:
    """Part r of the first dim, (size, ...), to rank r; what comes from rank r stands at r."""
    if ranks.size == 1:
        return x
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    dist.all_to_all_single(out, x.contiguous(), group=ranks.group)
    return out
