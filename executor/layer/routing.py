"""From chosen experts to the layout of rows: who goes where, in which order, and how many.

Experts lie in order on the ranks of the expert group, `experts_per_rank` on each. Rows are sorted by expert, those of
an expert by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from meshwright.costmodel.strategy import Dispatch
from meshwright.executor.layer.collectives import all_gather_rows, all_to_all_parts
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.copies import copy_layout
from meshwright.executor.layer.host_reads import HostReads
from meshwright.executor.layer.row_maps import Layout, balanced_counts, first_rows
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.index.operator import index

EXPERTS = "experts"
WEIGHTS = "weights"
LAYOUT = "layout"
GATES = "gates"


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedSlots:
    """The (token, choice) slots of this rank's tokens, sorted by expert.

    slots_R: slot numbers in the order of experts; places_TK: where each slot stands in that order.
    """

    slots_R: Tensor
    places_TK: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLayout(Layout):
    """All experts are here: rows are this rank's slots."""

    rowmap: RowMap


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout(Layout):
    """Rows are sent to the ranks of their experts.

    rowmap: this rank's slots in the order of all experts. sent, received: rows to and from every rank. arrived_R: order
    that sorts arrived rows by expert; home_R: its inverse. Where etp ranks share experts, what each has received
    arrives in `num_blocks` blocks of `block` rows, filled up; then home_R is None.
    """

    rowmap: RowMap
    sent: list[int]
    received: list[int]
    arrived_R: Tensor
    home_R: Tensor | None
    block: int
    num_blocks: int

    def sorted(self, arrived: Tensor) -> Tensor:
        """Arrived rows in the order of this rank's experts."""
        return arrived.index_select(0, self.arrived_R)

    def unsorted(self, rows: Tensor) -> Tensor:
        """Rows in the order in which they arrived, zero where blocks were filled up."""
        if self.home_R is not None:
            return rows.index_select(0, self.home_R)
        arrived = rows.new_zeros(self.num_blocks * self.block, *rows.shape[1:])
        return arrived.index_copy_(0, self.arrived_R, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherLayout(Layout):
    """All tokens of the group are here, and this rank picks the rows of its experts.

    slots_R: their slots among those of all tokens; tokens_R: their tokens; gates_R1: their gate weights.
    """

    slots_R: Tensor
    tokens_R: Tensor
    gates_R1: Tensor


def plan_layout(experts_TK: Tensor, weights_TK: Tensor, layer: LayerContext, host: HostReads) -> Layout:
    """The layout of the rows of this rank's tokens; a choice that is dropped has expert number E."""
    if layer.groups.routed.size == 1:
        rowmap = index(experts_TK, layer.moe.num_experts)
        if layer.drops_tokens:
            rowmap = first_rows(rowmap, host.read(rowmap.offsets_E[-1:])[0])
        return LocalLayout(rowmap=rowmap, offsets_E=rowmap.offsets_E)
    if layer.setting.strategy.dispatch is Dispatch.ALL_GATHER:
        return _gather_layout(experts_TK, weights_TK, layer, host)
    if layer.setting.strategy.dispatch is Dispatch.ALL_TO_ALL_DEDUP:
        return copy_layout(experts_TK, weights_TK, layer, host)
    return _row_layout(experts_TK, layer, host)


def sort_slots(experts_TK: Tensor) -> tuple[SortedSlots, Tensor]:
    """The slots in the order of experts, and the experts in that order."""
    ordered, slots = torch.sort(experts_TK.flatten(), stable=True)
    return SortedSlots(slots_R=slots, places_TK=inverse(slots).view_as(experts_TK)), ordered


def inverse(order: Tensor) -> Tensor:
    """The inverse of a permutation."""
    places = torch.empty_like(order)
    return places.scatter_(0, order, torch.arange(order.numel(), device=order.device))


def expert_ends(ordered_experts: Tensor, num_experts: int) -> Tensor:
    """Ends (int32) of the experts' rows among rows sorted by expert: a search, which no host waits for."""
    numbers = torch.arange(num_experts, device=ordered_experts.device, dtype=ordered_experts.dtype)
    return torch.searchsorted(ordered_experts, numbers, right=True, out_int32=True)


def _row_layout(experts_TK: Tensor, layer: LayerContext, host: HostReads) -> RowLayout:
    rowmap = index(experts_TK, layer.moe.num_experts)
    counts = _exchanged_counts(rowmap, layer, host)
    num_ranks, num_blocks, per_rank = layer.groups.expert.size, len(counts.blocks), layer.experts_per_rank
    numbers = torch.arange(per_rank, device=layer.device).repeat(num_blocks * num_ranks)
    arriving = torch.repeat_interleave(numbers, counts.arriving.flatten(), output_size=sum(counts.blocks))
    sorted_experts, arrived = torch.sort(arriving, stable=True)
    return RowLayout(
        rowmap=first_rows(rowmap, sum(counts.sent)),
        sent=counts.sent,
        received=counts.received,
        arrived_R=_in_blocks(counts).index_select(0, arrived) if num_blocks > 1 else arrived,
        home_R=None if num_blocks > 1 else inverse(arrived),
        block=max(counts.blocks),
        num_blocks=num_blocks,
        offsets_E=expert_ends(sorted_experts, per_rank),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Rows to and from each rank, and in each block: what each of the ranks that share experts has received.

    arriving: rows of each block from each rank to each expert here (on the device).
    """

    sent: list[int]
    received: list[int]
    blocks: list[int]
    arriving: Tensor


def _in_blocks(counts: _Counts) -> Tensor:
    """Where the rows of all blocks, one behind the other, stand when each block is filled up to the longest."""
    lengths = counts.arriving.flatten(1).sum(1)
    begins = torch.arange(len(counts.blocks), device=lengths.device) * max(counts.blocks)
    shifts = torch.repeat_interleave(begins - lengths.cumsum(0) + lengths, lengths, output_size=sum(counts.blocks))
    return shifts + torch.arange(sum(counts.blocks), device=lengths.device)


def _exchanged_counts(rowmap: RowMap, layer: LayerContext, host: HostReads) -> _Counts:
    ranks, sharing, per_rank, moe = layer.groups.expert, layer.groups.expert_tensor, layer.experts_per_rank, layer.moe
    if layer.routing.balanced:
        counts = balanced_counts(rowmap.places_TK.shape[0], moe.num_experts, moe.top_k)
        per_target = [counts[first : first + per_rank] for first in range(0, moe.num_experts, per_rank)]
        own = per_target[ranks.rank]
        sent, received = [sum(target) for target in per_target], [sum(own)] * ranks.size
        arriving = _on_device(own, sharing.size * ranks.size, layer.device).unflatten(0, (sharing.size, -1))
        return _Counts(sent=sent, received=received, blocks=[sum(received)] * sharing.size, arriving=arriving)
    sending = rowmap.counts_E.to(torch.int64).view(ranks.size, per_rank)
    own_rows = all_to_all_parts(sending, ranks)
    arriving = all_gather_rows(own_rows, sharing).unflatten(0, (sharing.size, -1))
    numbers = host.read(torch.cat((sending.sum(1), own_rows.sum(1), arriving.flatten(1).sum(1))))
    return _Counts(
        sent=numbers[: ranks.size],
        received=numbers[ranks.size : 2 * ranks.size],
        blocks=numbers[2 * ranks.size :],
        arriving=arriving,
    )


@lru_cache(maxsize=8)
def _on_device(counts: tuple[int, ...], num_ranks: int, device: torch.device) -> Tensor:
    """The same counts from every rank, copied to the device once."""
    return torch.tensor([counts] * num_ranks, device=device)


def _gather_layout(experts_TK: Tensor, weights_TK: Tensor, layer: LayerContext, host: HostReads) -> GatherLayout:
    ranks, per_rank = layer.groups.routed, layer.experts_per_rank
    experts = all_gather_rows(experts_TK, ranks)
    gates = all_gather_rows(weights_TK, ranks)
    local = experts.flatten() - layer.groups.expert.rank * per_rank
    elsewhere = (local < 0) | (local >= per_rank)
    ordered, slots = torch.sort(local.masked_fill(elsewhere, per_rank), stable=True)
    offsets = expert_ends(ordered, per_rank)
    slots = slots[: _num_local_rows(experts_TK.shape[0], offsets, layer, host)]
    return GatherLayout(
        slots_R=slots,
        tokens_R=slots // layer.moe.top_k,
        gates_R1=gates.flatten().index_select(0, slots).unsqueeze(1),
        offsets_E=offsets,
    )


def _num_local_rows(num_tokens: int, offsets_E: Tensor, layer: LayerContext, host: HostReads) -> int:
    if not layer.routing.balanced:
        return host.read(offsets_E[-1:])[0]
    ranks, per_rank = layer.groups.expert, layer.experts_per_rank
    counts = balanced_counts(num_tokens, layer.moe.num_experts, layer.moe.top_k)
    return layer.groups.routed.size * sum(counts[ranks.rank * per_rank : (ranks.rank + 1) * per_rank])
