"""Collectives on random BF16 buffers, each over rotating sets: the calls that training makes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist

from meshwright.costmodel.program.operators import Collective, CollectiveWork
from meshwright.executor.measure_hardware.operators.values import normal, unwritten

ELEMENT_BYTES = 2
MOST_SETS = 16
CACHES = 2.0

Call = Callable[[int], None]

# Newer releases of PyTorch have other names for these two and warn of the old ones.
all_gather: Callable[..., object] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter: Callable[..., object] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def collective_call(
    work: CollectiveWork, peer_shares: tuple[float, ...], group: dist.ProcessGroup, device: torch.device, num_sets: int
) -> Call:
    """The collective of `work` on one of `num_sets` sets of buffers; bytes are counted as `CollectiveWork` says."""
    size, place = group.size(), group.rank()
    elements = max(size, round(work.num_bytes / ELEMENT_BYTES / size) * size)
    match work.collective:
        case Collective.ALL_GATHER:
            return _gather(elements, size, group, device, num_sets)
        case Collective.REDUCE_SCATTER:
            return _scatter(elements, size, group, device, num_sets)
        case Collective.ALL_REDUCE:
            return _reduce(elements, group, device, num_sets)
        case Collective.ALL_TO_ALL:
            sends = split_rows(elements, peer_shares or (1.0 / size,) * size)
            return _exchange(sends, [sends[place]] * size, group, device, num_sets)
        case Collective.SEND_RECV:
            # A ring: everybody sends to the next and receives from the one before, in one group of messages.
            sends = [elements if rank == (place + 1) % size else 0 for rank in range(size)]
            receives = [elements if rank == (place - 1) % size else 0 for rank in range(size)]
            return _exchange(sends, receives, group, device, num_sets)


def buffer_sets(work: CollectiveWork, l2_bytes: float) -> int:
    """Sets that together are twice the cache, within reason."""
    return min(MOST_SETS, max(1, math.ceil(CACHES * l2_bytes / work.num_bytes)))


def split_rows(elements: int, shares: tuple[float, ...]) -> list[int]:
    """Whole elements by share, in multiples of 8 except for what the first takes."""
    counts = [int(share * elements) // 8 * 8 for share in shares]
    return [elements - sum(counts[1:]), *counts[1:]]


def _gather(elements: int, size: int, group: dist.ProcessGroup, device: torch.device, num_sets: int) -> Call:
    own, whole = normal((num_sets, elements // size), device), unwritten((num_sets, elements), device)

    def call(index: int) -> None:
        all_gather(whole[index], own[index], group=group)

    return call


def _scatter(elements: int, size: int, group: dist.ProcessGroup, device: torch.device, num_sets: int) -> Call:
    whole, own = normal((num_sets, elements), device), unwritten((num_sets, elements // size), device)

    def call(index: int) -> None:
        reduce_scatter(own[index], whole[index], group=group)

    return call


def _reduce(elements: int, group: dist.ProcessGroup, device: torch.device, num_sets: int) -> Call:
    """In place, by the mean where there is one: sums would grow without bound over many runs."""
    values = normal((num_sets, elements), device)
    operation = dist.ReduceOp.AVG if device.type == "cuda" else dist.ReduceOp.MAX

    def call(index: int) -> None:
        dist.all_reduce(values[index], op=operation, group=group)

    return call


def _exchange(
    sends: list[int], receives: list[int], group: dist.ProcessGroup, device: torch.device, num_sets: int
) -> Call:
    sent, received = normal((num_sets, sum(sends)), device), unwritten((num_sets, sum(receives)), device)

    def call(index: int) -> None:
        dist.all_to_all_single(received[index], sent[index], receives, sends, group=group)

    return call
